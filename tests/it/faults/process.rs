//! A node's process that is stopped, killed, and started anew.

use std::time::{Duration, Instant};

use proscenium::{CallError, Environment, Outcome, QueryError, RemoteEnvironment};

use super::{Brief, Doored, SILENCE, Talkative, until_written, wire::key};
use crate::support::{
    Answer, Counter, DEADLINE, Door, Echo, Increment, Journal, LateAnswer, NodeProcess, NodeSetup, Pen, Proxy, Total,
    block_on, deadline, ended, on_a_thread,
};

#[test]
fn a_node_that_is_stopped_for_a_while_goes_on_where_it_was() {
    let node = NodeProcess::set_up(&NodeSetup { silence: Some(SILENCE), ..NodeSetup::default() });
    block_on(async {
        let (door, journal) = (Door::new().await, Journal::new());
        let connect = node.connect().heartbeat(SILENCE / 10, SILENCE).connect_limit(SILENCE);
        let env = connect.await.unwrap();
        let job = env.submit(Doored { door: door.way(), pen: journal.pen() }).autostop(true).await.unwrap();
        let services = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        let (counter, echo) = (services.service::<Counter>("counter"), services.service::<Echo>("echo"));
        assert_eq!(counter.call(Increment).await, Ok(1));
        let mut visitor = door.arrival_of("0").await;
        let late = tokio::spawn(echo.call(LateAnswer(7, door.way())));
        let caller = door.arrival_of("7").await;
        let waiting = tokio::spawn(job.wait());
        let numbers = services.input::<u64>("numbers");
        numbers.send(1).await.unwrap();

        node.signal("STOP");
        let sending = tokio::spawn(async move {
            numbers.send_all(2..100).await.unwrap();
            numbers
        });
        let submitted = tokio::spawn(env.submit(Brief { number: 5, pen: journal.pen() }).autostop(true).into_future());
        let error = deadline("the silence being noticed", late).await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::FateUnknown { .. }), "{error:?}");
        assert!(!waiting.is_finished(), "the job has not ended");
        assert!(!sending.is_finished(), "the items cannot have been confirmed");
        assert!(!submitted.is_finished(), "the submit cannot have been answered");

        node.signal("CONT");
        let brief = deadline("the submit", submitted).await.unwrap().unwrap();
        assert_eq!(ended(&brief).await, Outcome::Completed);
        assert_eq!(journal.count("0 5"), 1, "{:?}", journal.lines());
        let numbers = deadline("the items", sending).await.unwrap();
        caller.admit();
        assert_eq!(deadline("a call", counter.call(Total)).await, Ok(1));
        deadline("the end of the items", numbers.finish()).await.unwrap();
        for n in 1..10 {
            visitor.admit();
            visitor = door.arrival_of(&n.to_string()).await;
        }
        visitor.admit();
        assert_eq!(deadline("the end", waiting).await.unwrap(), Ok(Outcome::Completed));
        let live = deadline("the live output", services.output::<u64>("live")).await.unwrap();
        assert!(live.into_iter().eq((1..100).map(|n| n * 2)), "each once, in order");
        assert_eq!(ended(&services).await, Outcome::Completed);
        assert_eq!(env.jobs().await.unwrap().len(), 3);
        env.close().await;
    });
    node.end();
}

#[test]
fn a_node_that_is_stopped_cannot_be_reached_and_its_jobs_are_not_lost() {
    let node = NodeProcess::set_up(&NodeSetup { silence: Some(SILENCE), ..NodeSetup::default() });
    block_on(async {
        let journal = Journal::new();
        let connect = node.connect().heartbeat(SILENCE / 10, SILENCE).connect_limit(SILENCE / 4);
        let env = connect.reconnect_limit(SILENCE / 2).await.unwrap();
        let job = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        assert_eq!(job.service::<Echo>("echo").call(Answer(1)).await, Ok(1));
        let waiting = tokio::spawn(job.wait());
        tokio::task::yield_now().await;
        assert!(job.status().await.unwrap().is_running());
        node.signal("STOP");
        let wait = deadline("the wait", waiting).await.unwrap();
        assert!(matches!(wait, Err(QueryError::Unreachable { .. })), "{wait:?}");
        let status = deadline("a question", job.status()).await;
        assert!(matches!(status, Err(QueryError::Unreachable { .. })), "{status:?}");
        let error = deadline("a call", job.service::<Echo>("echo").call(Answer(1))).await.unwrap_err();
        assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");
        node.signal("CONT");
        let back = async {
            while env.health().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        deadline("the node being back", back).await;
        assert!(job.status().await.unwrap().is_running());
        assert_eq!(deadline("a call", job.service::<Echo>("echo").call(Answer(2))).await, Ok(2));
        job.input::<u64>("numbers").finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        env.close().await;
    });
    node.end();
}

#[test]
fn a_client_that_is_stopped_for_longer_than_the_silence_carries_on() {
    let node = NodeProcess::set_up(&NodeSetup { silence: Some(SILENCE), ..NodeSetup::default() });
    let (proxy, journal) = (Proxy::to(node.address().parse().unwrap()), Journal::new());
    let setup = serde_json::to_string(&(proxy.address(), journal.pen())).unwrap();
    let mut client = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["faults::process::a_test_binary_can_be_a_client_that_counts", "--exact", "--nocapture"])
        .env(CLIENT, setup)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let signal = |signal: &str| {
        let sent = std::process::Command::new("kill").args([signal, &client.id().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    until_written(&journal, "the client begins");
    assert_eq!(proxy.ended(), 0);
    signal("-STOP");
    // The node closes the connection of a client that was silent for so long.
    let begun = Instant::now();
    while proxy.ended() == 0 {
        assert!(begun.elapsed() < DEADLINE, "the client was not given up");
        std::thread::yield_now();
    }
    signal("-CONT");
    until_written(&journal, "the client is done");
    let status = on_a_thread("the client's end", move || client.wait()).unwrap();
    assert!(status.success());
    node.end();
}

const CLIENT: &str = "PROSCENIUM_TEST_COUNTING_CLIENT";

/// Not a test, but what the one before starts: goes on until it has been without a connection, and then ends well.
#[test]
fn a_test_binary_can_be_a_client_that_counts() {
    let Ok(setup) = std::env::var(CLIENT) else { return };
    let (address, pen) = serde_json::from_str::<(String, Pen)>(&setup).unwrap();
    let connect = RemoteEnvironment::connect("test", address).key(key()).heartbeat(SILENCE / 10, SILENCE);
    block_on(async {
        let env = connect.await.unwrap();
        let job = env.submit(Talkative { pen: pen.clone() }).autostop(true).await.unwrap();
        let echo = job.service::<Echo>("echo");
        let door = Door::new().await;
        let call = tokio::spawn(echo.call(LateAnswer(7, door.way())));
        let _visitor = door.arrival_of("7").await;
        pen.write("the client begins");
        // It is on its way when the connection is lost, whenever that is.
        let error = deadline("the loss", call).await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::FateUnknown { .. }), "{error:?}");
        let numbers = job.input::<u64>("numbers");
        deadline("the items", numbers.send_all(0..100)).await.unwrap();
        deadline("the end of the items", numbers.finish()).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(deadline("the output", job.output::<u64>("live")).await.unwrap().len(), 100);
        pen.write("the client is done");
        env.close().await;
    });
}

/// What a node with a history on disk is started with again.
#[cfg(feature = "store")]
mod restarted {
    use super::*;
    use crate::support::Swallow;
    use proscenium::{JobHandle, SubmitError};

    fn setup(folder: &tempfile::TempDir) -> NodeSetup {
        NodeSetup { folder: Some(folder.path().join("data")), ..NodeSetup::default() }
    }

    fn connect(proxy: &Proxy) -> proscenium::Connect {
        RemoteEnvironment::connect("test", proxy.address()).key(key())
    }

    fn proxy_to(node: &NodeProcess) -> Proxy {
        Proxy::to(node.address().parse().unwrap())
    }

    #[test]
    fn ended_jobs_keep_their_outcome_over_a_kill_and_those_that_ran_are_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = NodeProcess::set_up(&setup(&folder));
        let proxy = proxy_to(&node);
        let node = block_on(async {
            let (door, journal) = (Door::new().await, Journal::new());
            let env = connect(&proxy).await.unwrap();
            let done = env.submit(Brief { number: 1, pen: journal.pen() }).autostop(true).await.unwrap();
            assert_eq!(ended(&done).await, Outcome::Completed);
            let cancelled = env.submit(Talkative { pen: journal.pen() }).await.unwrap();
            cancelled.cancel().await.unwrap();
            let outcome = ended(&cancelled).await;
            let (done_before, cancelled_before) = (done.status().await.unwrap(), cancelled.status().await.unwrap());
            let running = env.submit(Doored { door: door.way(), pen: journal.pen() }).autostop(true).await.unwrap();
            let visitor = door.arrival_of("0").await;
            let waiting = tokio::spawn(running.wait());
            // Each time it is the same address and the same history, and another incarnation.
            for _ in 0..3 {
                node.kill();
                node = NodeProcess::set_up(&setup(&folder));
                proxy.lead_to(node.address().parse().unwrap());
                assert_eq!(deadline("status", done.status()).await, Ok(done_before.clone()));
                assert_eq!(deadline("status", cancelled.status()).await, Ok(cancelled_before.clone()));
                assert_eq!(deadline("wait", cancelled.wait()).await, Ok(outcome.clone()));
                is_lost(&running).await;
                assert_eq!(env.jobs().await.unwrap().len(), 3);
            }
            let outcome = deadline("the loss being told", waiting).await.unwrap().unwrap();
            assert!(matches!(outcome, Outcome::Lost { .. }), "{outcome}");
            assert_eq!(journal.count("0 1"), 1, "{:?}", journal.lines());
            drop(visitor);
            env.close().await;
            node
        });
        node.end();
    }

    async fn is_lost(job: &JobHandle) {
        let outcome = deadline("the loss being told", job.wait()).await.unwrap();
        assert!(matches!(outcome, Outcome::Lost { .. }), "{outcome}");
        match deadline("status", job.status()).await {
            Ok(status) => assert!(matches!(status.outcome, Some(Outcome::Lost { .. })), "{status:?}"),
            Err(error) => assert!(matches!(error, QueryError::Lost { .. }), "{error:?}"),
        }
    }

    #[test]
    fn a_submit_whose_answer_died_with_the_node_is_not_run_again() {
        let folder = tempfile::tempdir().unwrap();
        let node = NodeProcess::set_up(&setup(&folder));
        let proxy = proxy_to(&node);
        block_on(async {
            let (door, journal) = (Door::new().await, Journal::new());
            let env = connect(&proxy).await.unwrap();
            proxy.swallow(Swallow::ANSWERS);
            let submit = env.submit(Doored { door: door.way(), pen: journal.pen() }).autostop(true);
            let submitted = tokio::spawn(submit.into_future());
            // It runs, and the client does not know.
            let visitor = door.arrival_of("0").await;
            assert!(!submitted.is_finished());
            node.kill();
            let node = NodeProcess::set_up(&setup(&folder));
            proxy.lead_to(node.address().parse().unwrap());
            proxy.cut();
            let error = deadline("the submit", submitted).await.unwrap().unwrap_err();
            let SubmitError::FateUnknown { id, .. } = error else { panic!("{error:?}") };
            // Who asks is told.
            let job = env.job(id).await.unwrap();
            is_lost(&job).await;
            let health = env.health().await.unwrap();
            assert_eq!((health.jobs_live, health.jobs_ended), (0, 1));
            assert_eq!(journal.count("0 open"), 1, "{:?}", journal.lines());
            drop(visitor);
            env.close().await;
            node.end();
        });
    }

    #[test]
    fn what_was_told_before_a_kill_holds_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = NodeProcess::set_up(&setup(&folder));
        let rounds = if crate::leaks::child::is_long() { 40 } else { 5 };
        for round in 0..rounds {
            let journal = Journal::new();
            let proxy = proxy_to(&node);
            let told = block_on(async {
                let env = connect(&proxy).reconnect_limit(Duration::ZERO).await.unwrap();
                let (accepted, mut is_accepted) = tokio::sync::mpsc::unbounded_channel();
                let jobs: Vec<_> = (0..40).map(|number| Brief { number, pen: journal.pen() }).collect();
                let submits = jobs.into_iter().map(|job| {
                    let (accepted, submit) = (accepted.clone(), env.submit(job).autostop(true));
                    tokio::spawn(async move {
                        let Ok(job) = submit.await else { return None };
                        let _ = accepted.send(());
                        Some((job.id(), job.wait().await.ok()))
                    })
                });
                let submits: Vec<_> = submits.collect();
                // In the midst of it.
                for _ in 0..=round * 3 % 40 {
                    deadline("a submit", is_accepted.recv()).await;
                }
                node.kill();
                let mut told = Vec::new();
                for submit in submits {
                    told.extend(deadline("the end of a wait", submit).await.unwrap());
                }
                env.close().await;
                told
            });
            node = NodeProcess::set_up(&setup(&folder));
            let env = node.connect().blocking().unwrap();
            assert!(told.len() as u64 > round * 3 % 40);
            for (id, outcome) in &told {
                let job = env.blocking().job(*id).expect("an accepted job is in the history");
                let now = job.blocking().wait().unwrap();
                match outcome {
                    Some(Outcome::Completed) => assert_eq!(now, Outcome::Completed, "round {round}"),
                    // Nobody was told how it ended; either is true, as long as it was before or after the kill.
                    Some(Outcome::Lost { .. }) | None => {
                        assert!(matches!(now, Outcome::Completed | Outcome::Lost { .. }), "{now}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            for number in 0..40 {
                assert!(journal.count(&format!("0 {number}")) <= 1, "no job ran twice");
            }
            env.blocking().close();
        }
        node.end();
    }
}
