//! Nodes that die, and clients that do.

use std::time::Duration;

use proscenium::{
    CallError, ConnectError, ControlError, Environment, InputError, JobId, Key, Limits, Outcome, OutputError,
    QueryError, RemoteEnvironment, SubmitError,
};

use super::{Everything, Held, connect};
use crate::support::{Counter, Door, Increment, Journal, NodeProcess, Proxy, block_on, deadline, ended};

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn key() -> Key {
    Key::from_hex(KEY).expect("it is one")
}

#[test]
fn jobs_are_lost_with_their_node_and_never_reported_as_anything_else() {
    block_on(async {
        let (door, journal) = (Door::new().await, Journal::new());
        let node = NodeProcess::start_at("127.0.0.1:0", KEY, &Limits::default());
        let connect = RemoteEnvironment::connect("test", node.address()).key(key());
        let env = connect.reconnect_limit(Duration::from_millis(200)).await.unwrap();
        let job = env.submit(Held { door: door.way(), pen: journal.pen() }).autostop(true).await.unwrap();
        let visitor = door.arrival().await;
        let waiting = tokio::spawn(job.wait());
        let address = node.address().to_owned();
        node.kill();
        let outcome = deadline("the loss being told", waiting).await.unwrap().unwrap();
        assert!(matches!(&outcome, Outcome::Lost { reason } if reason.contains(&address)), "{outcome}");
        assert!(!outcome.is_completed() && !outcome.is_drained());
        // Whoever asks later hears the same.
        assert!(matches!(deadline("wait", job.wait()).await.unwrap(), Outcome::Lost { .. }));
        assert!(matches!(deadline("status", job.status()).await.unwrap_err(), QueryError::Lost { .. }));
        assert!(matches!(deadline("stop", job.stop()).await.unwrap_err(), ControlError::Lost { .. }));
        let error = deadline("submit", env.submit(Everything { pen: journal.pen() })).await.unwrap_err();
        assert!(matches!(error, SubmitError::Unreachable { .. }), "{error}");
        let error = deadline("call", job.service::<Counter>("counter").call(Increment)).await.unwrap_err();
        assert!(matches!(error, CallError::JobLost { .. }), "{error}");
        let error = deadline("output", job.output::<u64>("doubles")).await.unwrap_err();
        assert!(matches!(error, OutputError::JobLost { .. }), "{error}");
        let error = deadline("input", job.input::<u64>("numbers").finish()).await.unwrap_err();
        assert!(matches!(error, InputError::JobLost { .. }), "{error}");
        assert!(matches!(deadline("jobs", env.jobs()).await.unwrap_err(), QueryError::Unreachable { .. }));
        drop(visitor);
        env.close().await;
    });
}

#[test]
fn a_node_that_was_started_anew_does_not_pass_for_the_one_that_died() {
    block_on(async {
        let (door, journal) = (Door::new().await, Journal::new());
        let first = NodeProcess::start_at("127.0.0.1:0", KEY, &Limits::default());
        let proxy = Proxy::to(first.address().parse().unwrap());
        let env = connect(proxy.address(), &key());
        let job = env.submit(Held { door: door.way(), pen: journal.pen() }).autostop(true).await.unwrap();
        let services = env.submit(Everything { pen: journal.pen() }).await.unwrap();
        assert_eq!(services.service::<Counter>("counter").call(Increment).await.unwrap(), 1);
        let mut live = services.output::<u64>("live");
        let numbers = services.input::<u64>("numbers");
        numbers.send(1).await.unwrap();
        assert_eq!(deadline("an item", live.next()).await.unwrap(), Some(2));
        let visitor = door.arrival().await;
        let waiting = tokio::spawn(job.wait());
        let second = NodeProcess::start_at("127.0.0.1:0", KEY, &Limits::default());
        proxy.lead_to(second.address().parse().unwrap());
        first.kill();
        let outcome = deadline("the loss being told", waiting).await.unwrap().unwrap();
        assert!(matches!(&outcome, Outcome::Lost { reason } if reason.contains("restarted")), "{outcome}");
        assert!(matches!(job.status().await.unwrap_err(), QueryError::Lost { .. }));
        let error = deadline("an item", live.next()).await.unwrap_err();
        assert!(matches!(error, OutputError::JobLost { .. }), "{error}");
        let error = deadline("a send", numbers.send(2)).await.unwrap_err();
        assert!(matches!(error.error(), InputError::JobLost { .. }), "{error:?}");
        // The new one is as good as any.
        let job = deadline("submit", env.submit(Everything { pen: journal.pen() }).autostop(true)).await.unwrap();
        job.input::<u64>("numbers").finish().await.unwrap();
        assert!(deadline("live", job.output::<u64>("live")).await.unwrap().is_empty());
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(env.jobs().await.unwrap().len(), 1);
        drop(visitor);
        env.close().await;
        second.end();
    });
}

#[test]
fn a_node_that_says_nothing_is_given_up() {
    block_on(async {
        // It accepts connections, and that is all.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connect = RemoteEnvironment::connect("test", address).key(key()).connect_limit(Duration::from_millis(50));
        let error = deadline("giving up", connect).await.unwrap_err();
        assert!(
            matches!(&error, ConnectError::Unreachable { message, .. } if message.contains("did not answer")),
            "{error}"
        );
    });
}

const CHILD: &str = "PROSCENIUM_TEST_CLIENT";

/// Not a test, but what the next one starts: submits a job, says which, and waits for it.
#[test]
fn a_test_binary_can_be_a_client() {
    let Ok(setup) = std::env::var(CHILD) else { return };
    let (address, door, pen) = serde_json::from_str::<(String, _, _)>(&setup).unwrap();
    let env = connect(address, &key());
    let job = env.submit(Held { door, pen }).autostop(true).blocking().unwrap();
    println!("submitted {}", job.id());
    let _ = job.blocking().wait();
}

#[test]
fn a_job_outlives_the_process_that_submitted_it_and_is_found_by_its_id() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };
    block_on(async {
        let (door, journal) = (Door::new().await, Journal::new());
        let node = NodeProcess::start_at("127.0.0.1:0", KEY, &Limits::default());
        let setup = serde_json::to_string(&(node.address(), door.way(), journal.pen())).unwrap();
        let mut client = Command::new(std::env::current_exe().unwrap())
            .args(["remote::lost::a_test_binary_can_be_a_client", "--exact", "--nocapture"])
            .env(CHILD, setup)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        let id: JobId =
            lines.find_map(|line| line.unwrap().split_once("submitted ").map(|(_, id)| id.parse().unwrap())).unwrap();
        let visitor = door.arrival_of("0").await;
        client.kill().unwrap();
        client.wait().unwrap();

        let env = connect(node.address(), &key());
        let job = env.job(id).await.unwrap();
        let status = job.status().await.unwrap();
        assert!(status.is_running() && status.autostop, "{status:?}");
        assert!(!job.explain().await.unwrap().waits.is_empty());
        visitor.admit();
        for n in 1..10 {
            door.arrival_of(&n.to_string()).await.admit();
        }
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(journal.count("0 9"), 1, "{:?}", journal.lines());
        env.close().await;
        node.end();
    });
}
