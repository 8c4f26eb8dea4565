//! Connections that lead nowhere, without either side being told: a cable that was cut, a host that lost its power.

use proscenium::{CallError, Connect, Environment, Limits, Outcome, RemoteEnvironment};

use super::{SILENCE, Talkative, came_to_rest, wire::key};
use crate::{
    leaks::child::holdings_of,
    support::{
        Answer, Counter, Door, Echo, Increment, Journal, LateAnswer, NodeProcess, NodeSetup, Proxy, Swallow, Total,
        block_on, deadline, ended, read,
    },
};

fn node() -> NodeProcess {
    NodeProcess::set_up(&NodeSetup { silence: Some(SILENCE), ..NodeSetup::default() })
}

fn connect(proxy: &Proxy) -> Connect {
    RemoteEnvironment::connect("test", proxy.address()).key(key()).heartbeat(SILENCE / 10, SILENCE)
}

#[test]
fn a_half_open_connection_is_given_up_and_what_was_begun_goes_on_over_another() {
    let node = node();
    for ways in [Swallow::ALL, Swallow::ANSWERS, Swallow { to_node: true, to_client: false }] {
        let proxy = Proxy::to(node.address().parse().unwrap());
        block_on(async {
            let (door, journal) = (Door::new().await, Journal::new());
            let env = connect(&proxy).await.unwrap();
            let job = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
            let (counter, echo) = (job.service::<Counter>("counter"), job.service::<Echo>("echo"));
            assert_eq!(counter.call(Increment).await, Ok(1));
            let numbers = job.input::<u64>("numbers");
            numbers.send_all(0..100).await.unwrap();
            let waiting = tokio::spawn(job.wait());
            let live = job.output::<u64>("live");
            let call = tokio::spawn(echo.call(LateAnswer(7, door.way())));
            let visitor = door.arrival_of("7").await;
            proxy.swallow(ways);
            let incremented = deadline("a call into the void", counter.call(Increment)).await;
            assert!(matches!(incremented, Err(CallError::FateUnknown { .. })), "{incremented:?}");
            deadline("items into the void", numbers.send_all(100..200)).await.unwrap();
            let error = deadline("the loss being told", call).await.unwrap().unwrap_err();
            assert!(matches!(error, CallError::FateUnknown { .. }), "{error}");
            visitor.admit();
            assert_eq!(deadline("a call", echo.call(Answer(8))).await, Ok(8));
            // The message was handled once or not at all, as it arrived or did not.
            let total = deadline("a call", counter.call(Total)).await.unwrap();
            assert_eq!(total, if ways.to_node { 1 } else { 2 });
            deadline("the end of the items", numbers.finish()).await.unwrap();
            let expected: Vec<u64> = (0..200).map(|n| n * 2).collect();
            assert_eq!(deadline("the live output", live).await.unwrap(), expected, "each once, in order");
            assert_eq!(deadline("the end", waiting).await.unwrap(), Ok(Outcome::Completed));
            assert_eq!(read::<u64>(&job, "doubles").await, expected);
            assert_eq!(journal.count(&format!("counter stopped after {total}")), 1);
            job.delete().await.unwrap();
            env.close().await;
            assert_eq!(proxy.connections(), 2, "the first, and the one after it");
        });
    }
    node.end();
}

#[test]
fn of_a_client_that_went_without_a_word_nothing_is_left_and_what_it_had_not_taken_is_there_for_others() {
    let node = node();
    let proxy = Proxy::to(node.address().parse().unwrap());
    block_on(async {
        let journal = Journal::new();
        let env = node.connect().await.unwrap();
        let job = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        assert_eq!(job.service::<Counter>("counter").call(Increment).await, Ok(1));
        job.input::<u64>("numbers").send(0).await.unwrap();
        let before = holdings_of(&node.id().to_string());
        let gone = connect(&proxy).await.unwrap();
        let its_job = gone.job(job.id()).await.unwrap();
        let mut its_live = its_job.output::<u64>("live");
        assert_eq!(deadline("an item", its_live.next()).await, Ok(Some(0)));
        proxy.swallow(Swallow::ALL);
        proxy.swallow_new(Swallow::ALL);
        job.input::<u64>("numbers").send_all(1..1_000).await.unwrap();
        job.input::<u64>("numbers").finish().await.unwrap();
        // Of the client that is gone, the node's end of the connection stays for as long as it may be silent.
        came_to_rest(&node, before);
        let rest = deadline("the rest", job.output::<u64>("live")).await.unwrap();
        // It had not said that it took the first one.
        let rest = rest.into_iter().skip_while(|n| *n == 0);
        assert!(rest.eq((1..1_000).map(|n| n * 2)), "each once, in order");
        assert_eq!(ended(&job).await, Outcome::Completed);
        drop(its_live);
        gone.close().await;
        env.close().await;
    });
    node.end();
}

#[test]
fn a_network_that_is_gone_for_longer_than_the_limit_ends_in_an_error_and_no_job_in_a_loss() {
    let node = NodeProcess::start(&Limits::default());
    let proxy = Proxy::to(node.address().parse().unwrap());
    block_on(async {
        let journal = Journal::new();
        let connect = connect(&proxy).connect_limit(SILENCE / 2).reconnect_limit(SILENCE);
        let env = connect.await.unwrap();
        let job = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        let waiting = tokio::spawn(job.wait());
        tokio::task::yield_now().await;
        assert!(job.status().await.unwrap().is_running());
        proxy.swallow(Swallow::ALL);
        proxy.swallow_new(Swallow::ALL);
        let error = deadline("the wait", waiting).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
        let error = deadline("a question", job.status()).await.unwrap_err();
        assert!(!matches!(error, proscenium::QueryError::Lost { .. }), "{error:?}");
        let error = deadline("a call", job.service::<Echo>("echo").call(Answer(1))).await.unwrap_err();
        assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");
        // It is healed: the next attempt finds the node, and the job as it was.
        proxy.swallow_new(Swallow::NOTHING);
        let healed = async {
            while env.health().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        deadline("the network being noticed", healed).await;
        assert!(job.status().await.unwrap().is_running());
        job.input::<u64>("numbers").finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        env.close().await;
    });
    node.end();
}
