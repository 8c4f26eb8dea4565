//! How a node serves, and how it ends.

use std::time::Duration;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use proscenium::{
    CancelReason, Connect, Environment, Fate, JobHandle, JobRegistry, JobState, Key, KeyRole, Limits, MessageTable,
    Node, NodeStop, Outcome, RemoteEnvironment, Service, ServiceRef,
};
use serde::{Deserialize, Serialize};

use super::{Everything, Held, connect, node};
use crate::support::{
    Answer, Door, Echo, Journal, NodeProcess, block_on, deadline, each_environment, ended, idle, job, reached,
    waiting_for,
};

job!(
    /// Two outputs, of which one is never read.
    PairOfOutputs { items: u64 }, |job, flow| {
        flow.from_batch(0..job.items).map(|n| vec![n; 16]).stream_out("read");
        flow.from_batch(0..job.items).map(|n| vec![n; 16]).stream_out("unread");
    }
);

/// Passes on what it is given the way to.
#[derive(Debug)]
struct Introducer {
    echo: ServiceRef<Echo>,
}

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "ServiceRef<Echo>")]
struct Introduce;

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "u64")]
struct Ask {
    whom: ServiceRef<Echo>,
    number: u64,
}

impl Actor for Introducer {
    type Context = Context<Self>;
}

impl Service for Introducer {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Introduce>("introduce").accept::<Ask>("ask");
    }
}

impl Handler<Introduce> for Introducer {
    type Result = actix::MessageResult<Introduce>;

    fn handle(&mut self, _: Introduce, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.echo.clone())
    }
}

impl Handler<Ask> for Introducer {
    type Result = ResponseFuture<u64>;

    fn handle(&mut self, Ask { whom, number }: Ask, _: &mut Self::Context) -> Self::Result {
        Box::pin(async move { whom.call(Answer(number)).await.map_or(0, |answer| answer + 1) })
    }
}

job!(Introductions {}, |job, flow| {
    flow.register_service("echo", || Echo);
    flow.register_service_with("introducer", |ctx| Introducer { echo: ctx.service("echo").expect("it is registered") });
});

pub fn jobs() -> JobRegistry {
    proscenium::jobs![PairOfOutputs, Introductions]
}

#[test]
fn a_reference_that_comes_in_a_message_or_a_reply_works() {
    each_environment(async |env| {
        let job = idle(env, Introductions {}).await;
        let introducer: ServiceRef<Introducer> = job.service("introducer");
        let echo = introducer.call(Introduce).await.unwrap();
        assert_eq!((echo.job(), echo.name()), (job.id(), "echo"));
        assert_eq!(echo.call(Answer(4)).await.unwrap(), 4);
        let whom = job.service("echo");
        assert_eq!(introducer.call(Ask { whom, number: 5 }).await.unwrap(), 6);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_submitter_cannot_have_its_job_call_services_of_anothers() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let admin = connect(address, &key);
        let env = connect(address, &admin.add_key("etl", KeyRole::Submitter).await.unwrap());
        let (own, second) = (env.submit(Introductions {}).await.unwrap(), env.submit(Introductions {}).await.unwrap());
        let anothers = admin.submit(Introductions {}).await.unwrap();
        let introducer: ServiceRef<Introducer> = own.service("introducer");
        let ask = |job: &JobHandle| introducer.call(Ask { whom: job.service("echo"), number: 5 });
        assert_eq!(ask(&second).await.unwrap(), 6);
        // Which is known to others, as to readers, by its id.
        assert_eq!(ask(&anothers).await.unwrap(), 0);
        for job in [own, second, anothers] {
            job.cancel().await.unwrap();
            let _ = ended(&job).await;
        }
        env.close().await;
        admin.close().await;
    });
    drop(node);
}

#[test]
fn an_output_that_nobody_takes_does_not_hold_up_another() {
    let items = 100_000;
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        let job = env.submit(PairOfOutputs { items }).autostop(true).await.unwrap();
        let mut unread = job.output::<Vec<u64>>("unread");
        assert_eq!(deadline("an item", unread.next()).await.unwrap(), Some(vec![0; 16]));
        let mut read = job.output::<Vec<u64>>("read");
        for n in 0..items {
            assert_eq!(deadline("an item", read.next()).await.unwrap().expect("there are more")[15], n);
        }
        assert!(job.status().await.unwrap().is_running(), "the other output is not read, and holds up the job");
        // On a busy machine its task may still be filling it.
        deadline("the unread output's being named", async {
            while !job.explain().await.unwrap().waits.iter().any(|wait| wait.contains("unread")) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let rest = deadline("the rest", unread).await.unwrap();
        assert!(rest.into_iter().map(|item| item[15]).eq(1..items));
        assert_eq!(deadline("the end", read.next()).await.unwrap(), None);
        assert_eq!(ended(&job).await, Outcome::Completed);
        env.close().await;
    });
    drop(node);
}

#[test]
fn a_large_output_delays_neither_signs_of_life_nor_answers() {
    let long = std::env::var_os("PROSCENIUM_LONG").is_some();
    let items: u64 = if long { 8 << 20 } else { 1 << 19 };
    let key = Key::generate();
    let beat = (Duration::from_millis(20), Duration::from_secs(5));
    let node = Node::builder().jobs(crate::jobs()).address("127.0.0.1:0").key(key.clone()).task_threads(2);
    let node = node.heartbeat(beat.0, beat.1).open().unwrap();
    block_on_for(Duration::from_secs(if long { 600 } else { 60 }), async {
        let connect = RemoteEnvironment::connect("test", node.address().unwrap().to_string()).key(key);
        let env = connect.heartbeat(beat.0, beat.1).await.unwrap();
        // 128 bytes an item and more: 1 GiB in the long campaign, of which the node holds 64 MiB in memory.
        let job = env.submit(PairOfOutputs { items }).await.unwrap();
        let (mut read, mut unread) = (job.output::<Vec<u64>>("read"), job.output::<Vec<u64>>("unread"));
        let mut answered = 0;
        for n in 0..items {
            let item = read.next().await.unwrap().expect("there are more");
            assert_eq!((item.len(), item[15]), (16, n));
            assert_eq!(unread.next().await.unwrap().expect("there are more")[15], n);
            if n % 4096 == 0 {
                // Answered before the items that are under way by then have been read.
                assert!(job.status().await.unwrap().is_running() || n + 100_000 > items);
                answered += 1;
            }
        }
        assert_eq!(answered, items.div_ceil(4096));
        env.close().await;
    });
    drop(node);
}

fn block_on_for<T>(limit: Duration, body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(limit, body).await.expect("it ends") })
}

#[test]
fn a_node_that_is_told_to_drain_lets_jobs_end_and_tells_who_waits() {
    block_on(async {
        let (door, journal) = (Door::new().await, Journal::new());
        let node = NodeProcess::start(&Limits::default());
        let env = node.connect().await.unwrap();
        let held = env.submit(Held { door: door.way(), pen: journal.pen() }).autostop(true).await.unwrap();
        let idle = env.submit(Everything { pen: journal.pen() }).await.unwrap();
        let visitor = door.arrival().await;
        let waits = [waiting_for(&held), waiting_for(&idle)];
        deadline("the order", env.stop_node(NodeStop::Drain)).await.unwrap();
        reached(&held, JobState::Draining).await;
        let refused = env.submit(Everything { pen: journal.pen() }).await.unwrap_err();
        assert_eq!(refused, proscenium::SubmitError::EnvironmentClosed);
        drop(door);
        visitor.admit();
        for wait in waits {
            let outcome = deadline("the end being told", wait).await.unwrap().unwrap();
            assert!(outcome.is_drained(), "{outcome}");
        }
        assert!(node.wait().success());
        env.close().await;
    });
}

#[cfg(unix)]
#[test]
fn the_first_signal_drains_a_node_and_the_second_cancels() {
    use std::process::Command;
    let signal = |node: &NodeProcess, signal: &str| {
        assert!(Command::new("kill").args([signal, &node.id().to_string()]).status().unwrap().success());
    };
    block_on(async {
        let (door, journal) = (Door::new().await, Journal::new());
        let node = NodeProcess::start(&Limits::default());
        let env = node.connect().await.unwrap();
        let job = env.submit(Held { door: door.way(), pen: journal.pen() }).autostop(true).await.unwrap();
        let visitor = door.arrival().await;
        let wait = waiting_for(&job);
        signal(&node, "-TERM");
        reached(&job, JobState::Draining).await;
        signal(&node, "-INT");
        let outcome = deadline("the end being told", wait).await.unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Cancelled { reason: CancelReason::Requested, .. }), "{outcome}");
        assert!(node.wait().success());
        drop(visitor);
        env.close().await;
    });
}

#[test]
fn a_node_that_is_dropped_cancels_its_jobs_and_tells_who_waits() {
    block_on(async {
        let (node, address, key) = node(Limits::default());
        let (env, journal) = (connect(address, &key), Journal::new());
        let job = env.submit(Everything { pen: journal.pen() }).await.unwrap();
        let waiting = waiting_for(&job);
        // Answered after the other question has been asked.
        assert!(job.status().await.unwrap().is_running());
        tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
        let outcome = deadline("the end being told", waiting).await.unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome}");
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens there any more");
        deadline("closing", env.close()).await;
    });
}

#[test]
fn a_message_beyond_the_limit_is_refused_before_it_is_sent() {
    block_on(async {
        let (node, address, key) = node(Limits::default());
        let (env, journal) = (connect(address, &key), Journal::new());
        let job = env.submit(Everything { pen: journal.pen() }).await.unwrap();
        let input = job.input::<u64>("numbers");
        input.send(1).await.unwrap();
        let large: ServiceRef<Large> = job.service("echo");
        let error = large.call(Bytes(vec![1; 17 << 20])).await.unwrap_err();
        assert_eq!(error.fate(), Fate::Refused, "{error}");
        job.cancel().await.unwrap();
        env.close().await;
        drop(node);
    });
}

/// Is not what the node has under that name, which is found out only once something is sent.
#[derive(Debug)]
struct Large;

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "()")]
struct Bytes(Vec<u8>);

impl Actor for Large {
    type Context = Context<Self>;
}

impl Service for Large {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Bytes>("bytes");
    }
}

impl Handler<Bytes> for Large {
    type Result = ();

    fn handle(&mut self, _: Bytes, _: &mut Self::Context) {}
}

#[test]
fn settings_of_a_connection_can_be_chained_and_shown() {
    let connect: Connect = RemoteEnvironment::connect("shown", "127.0.0.1:1").encrypted(true);
    assert_eq!(format!("{connect:?}"), "Connect { name: \"shown\", .. }");
}
