//! A node, against a worker that says what a test has it say.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join3;
use serde::{Deserialize, Serialize};

use super::{
    Heard, Site, block_on, facts,
    fakes::{counts, prepared},
    own_key, prepare,
    raw::Raw,
    started, term, worker_key,
};
use crate::{
    bridge::{
        frame::{Kind, Lane},
        message::{FromClient, FromNode, Goodbye},
        worker::{
            LEASE,
            lease::SILENCE,
            message::{FromWorker, ToWorker},
        },
    },
    flow::{Flow, IntoJob, Job, job::Unplanned, job_fn},
    job::{BuildError, JobId, JobRefusal, NotSendable, TaskId},
    link::{AttemptKey, Connect, Prepare, Refusal, Request, Unconnected, Unprepared, WorkerId, WorkerLink},
    protocol::{Layout, Order, Progress, WorkerOrder},
};

/// A job of many bytes.
#[derive(Serialize, Deserialize)]
struct Large {
    text: String,
}

impl Job for Large {
    const NAME: &'static str = "large";

    fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
        Ok(())
    }
}

impl Site {
    /// A worker that has joined, and the way to it.
    async fn joined(&self, number: u128) -> (Raw, Arc<dyn WorkerLink>) {
        let mut worker = Raw::client(self.dial(), &worker_key(), number).await;
        worker.says(0, FromWorker::Register(facts(number))).await;
        match worker.order().await {
            (0, ToWorker::Registered { lease, .. }) => assert_eq!(lease, LEASE),
            other => panic!("{other:?}"),
        }
        (worker, self.manager.worker())
    }
}

fn connect(job: JobId) -> Connect {
    let layout = Layout { here: 1, tasks: vec![0, 1], services: Vec::new() };
    Connect { job, term: term(1), layout, peers: vec!["a:1".to_owned()], key: AttemptKey([4; 32]) }
}

fn order(job: JobId, order: WorkerOrder) -> Order {
    Order { job, term: term(1), order }
}

#[test]
fn a_worker_is_asked_and_ordered_and_what_it_says_comes_back() {
    let site = Site::new();
    block_on(async {
        let (mut worker, link) = site.joined(5).await;
        assert_eq!(site.manager.state.lock().joined[0].0, facts(5));
        assert_eq!(link.address(), facts(5).data_address);
        let (job, heard) = (JobId::random(), Heard::default());

        let preparing = tokio::spawn(link.prepare(prepare(job, heard.events())));
        let (id, ToWorker::Prepare(asked)) = worker.order().await else { panic!("no job to prepare") };
        assert_eq!((asked.job, asked.term, asked.parallelism), (job, term(1), 4));
        assert_eq!((asked.payload.name.as_str(), asked.payload.parameters.len()), ("count", 1));
        worker.says(id, FromWorker::Prepared(Ok(prepared()))).await;
        let graph = preparing.await.unwrap().expect("it is prepared").graph;
        assert_eq!(graph, prepared().graph);

        let connecting = tokio::spawn(link.connect(connect(job)));
        let (id, ToWorker::Connect(asked)) = worker.order().await else { panic!("nothing to connect") };
        assert_eq!((asked.peers, asked.layout.here), (vec!["a:1".to_owned()], 1));
        worker.says(id, FromWorker::Connected(Ok(()))).await;
        assert_eq!(connecting.await.unwrap(), Ok(()));

        let many: Vec<Order> =
            (0..200).map(|n| order(job, WorkerOrder::AbandonTasks { tasks: vec![TaskId(n)] })).collect();
        many.iter().for_each(|order| link.order(order.clone()));
        for expected in many {
            assert!(matches!(worker.order().await, (0, ToWorker::Order(heard)) if heard == expected));
        }

        let counting = tokio::spawn(link.progress(job));
        let (id, ToWorker::Progress(asked)) = worker.order().await else { panic!("nothing to count") };
        assert_eq!(asked, job);
        let progress = Progress { services: vec![counts()], ..Progress::default() };
        worker.says(id, FromWorker::Progressed(progress.clone())).await;
        assert_eq!(counting.await.unwrap(), progress);

        for task in 0..100 {
            worker.says(0, FromWorker::Event(started(job, 1, task))).await;
        }
        let expected: Vec<_> = (0..100).map(|task| started(job, 1, task)).collect();
        assert_eq!(heard.come(100).await, expected);
    });
}

#[test]
fn events_of_another_attempt_or_of_a_job_that_was_released_go_nowhere() {
    let site = Site::new();
    block_on(async {
        let (mut worker, link) = site.joined(5).await;
        let (job, heard) = (JobId::random(), Heard::default());
        let preparing = tokio::spawn(link.prepare(prepare(job, heard.events())));
        let (id, _) = worker.order().await;
        worker.says(id, FromWorker::Prepared(Ok(prepared()))).await;
        preparing.await.unwrap().expect("it is prepared");
        worker.says(0, FromWorker::Event(started(job, 2, 0))).await;
        worker.says(0, FromWorker::Event(started(JobId::random(), 1, 0))).await;
        worker.says(0, FromWorker::Event(started(job, 1, 7))).await;
        heard.come(1).await;
        link.order(order(job, WorkerOrder::Release));
        worker.says(0, FromWorker::Event(started(job, 1, 8))).await;
        // Answered behind it.
        let counting = tokio::spawn(link.progress(job));
        let id = loop {
            if let (id, ToWorker::Progress(_)) = worker.order().await {
                break id;
            }
        };
        worker.says(id, FromWorker::Progressed(Progress::default())).await;
        counting.await.unwrap();
        assert_eq!(heard.come(1).await, [started(job, 1, 7)]);
    });
}

#[test]
fn a_job_that_the_worker_does_not_build_is_refused_in_its_words_and_a_closure_is_not_sent() {
    let site = Site::new();
    block_on(async {
        let (mut worker, link) = site.joined(5).await;
        let job = JobId::random();
        let preparing = tokio::spawn(link.prepare(prepare(job, Heard::default().events())));
        let (id, _) = worker.order().await;
        let unknown = JobRefusal::Unknown { name: "count".to_owned(), known: Vec::new() };
        let refused = Unprepared::Unplanned(Unplanned::Job(unknown));
        worker.says(id, FromWorker::Prepared(Err(refused.clone()))).await;
        assert_eq!(preparing.await.unwrap().err(), Some(refused));

        let payload = job_fn("closure", |_| Ok(())).into_payload();
        let closure = Prepare { payload, ..prepare(job, Heard::default().events()) };
        let refused = Unprepared::NotSendable(NotSendable::Closure { job: "closure".to_owned() });
        assert_eq!(link.prepare(closure).await.err(), Some(refused));
    });
}

#[test]
fn whoever_waits_for_a_worker_that_is_lost_is_told_and_the_job_manager_once() {
    let site = Site::new();
    block_on(async {
        // The worker is gone before it has heard, once it has heard, and after it has answered the first.
        for (number, heard) in [(1, 0), (2, 3), (3, 4)] {
            let (mut worker, link) = site.joined(number).await;
            let job = JobId::random();
            let connecting = link.connect(connect(job));
            let progress = link.progress(job);
            let preparing = link.prepare(prepare(job, Heard::default().events()));
            let losing = async {
                for _ in 0..heard.min(3) {
                    let (id, order) = worker.order().await;
                    if heard == 4 && matches!(order, ToWorker::Connect(_)) {
                        worker.says(id, FromWorker::Connected(Ok(()))).await;
                    }
                }
                drop(worker);
            };
            let ((), answers, ()) = join3(losing, join3(preparing, connecting, progress), async {}).await;
            assert_eq!(answers.0.err(), Some(Unprepared::Gone));
            assert_eq!(answers.1, if heard == 4 { Ok(()) } else { Err(Unconnected::Gone) });
            assert_eq!(answers.2, Progress::default());
            site.manager.has_left(number as usize).await;
            // Nobody is there any more.
            link.order(order(job, WorkerOrder::Release));
            assert_eq!(link.connect(connect(job)).await, Err(Unconnected::Gone));
            let prepared = link.prepare(prepare(job, Heard::default().events())).await;
            assert_eq!(prepared.err(), Some(Unprepared::Gone));
        }
        let left: Vec<WorkerId> = site.manager.left().into_iter().map(|(worker, _)| worker).collect();
        assert_eq!(left, [WorkerId(1), WorkerId(2), WorkerId(3)]);
    });
}

#[test]
fn a_worker_that_is_lost_while_it_joins_leaves_all_the_same() {
    let site = Site::new();
    site.manager.state.lock().waits = true;
    block_on(async {
        let mut worker = Raw::client(site.dial(), &worker_key(), 5).await;
        worker.says(0, FromWorker::Register(facts(5))).await;
        site.manager.has_joined(1).await;
        drop(worker);
        // Its session ends, as the answers show.
        let link = site.manager.worker();
        assert_eq!(link.connect(connect(JobId::random())).await, Err(Unconnected::Gone));
        assert_eq!(site.manager.left(), []);
        let joining = site.manager.state.lock().joining.pop().expect("it waits");
        joining.send(Ok(WorkerId(1))).expect("it is waited for");
        site.manager.has_left(1).await;
    });
}

#[test]
fn a_worker_that_is_not_taken_is_told_why_and_does_not_leave() {
    let site = Site::new();
    site.manager.state.lock().waits = true;
    block_on(async {
        let mut worker = Raw::client(site.dial(), &worker_key(), 5).await;
        worker.says(0, FromWorker::Register(facts(5))).await;
        site.manager.has_joined(1).await;
        let joining = site.manager.state.lock().joining.pop().expect("it waits");
        joining.send(Err(Refusal::EnvironmentClosed)).expect("it is waited for");
        let refused = worker.order().await;
        assert!(matches!(refused, (0, ToWorker::Refused(Refusal::EnvironmentClosed))), "{refused:?}");
        site.changes_keys(FromClient::RevokeKey { name: "w".to_owned() });
        worker.end().await;
        assert_eq!(site.manager.left(), []);
    });
}

#[test]
fn a_client_is_no_worker_and_a_worker_no_client() {
    let site = Site::new();
    block_on(async {
        let cases = [
            (own_key(), FromClient::Worker(FromWorker::Register(facts(5))), "may not join as a worker"),
            (worker_key(), FromClient::Ask(Request::Health), "may not do what clients do"),
            (worker_key(), FromClient::ListKeys, "may not do what clients do"),
            (worker_key(), FromClient::StopNode(crate::NodeStop::Cancel), "may not do what clients do"),
        ];
        for (key, said, why) in cases {
            let mut peer = Raw::client(site.dial(), &key, 5).await;
            peer.ask(9, said).await;
            match peer.of_node().await {
                Ok((9, FromNode::Reply(Err(Refusal::Forbidden { message })))) => {
                    assert!(message.contains(why), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(site.manager.state.lock().joined.is_empty());
    });
}

#[test]
fn a_key_that_is_revoked_ends_the_sessions_of_its_workers() {
    let site = Site::new();
    block_on(async {
        let (mut worker, _) = site.joined(5).await;
        site.changes_keys(FromClient::RevokeKey { name: "w".to_owned() });
        assert_eq!(worker.end().await, Some(Goodbye::KeyRevoked));
        site.manager.has_left(1).await;
    });
}

#[test]
fn a_worker_that_breaks_a_rule_is_told_which_and_lost() {
    let site = Site::new();
    block_on(async {
        let event = || FromWorker::Event(started(JobId::random(), 1, 0));
        let nameless = || FromWorker::Register(crate::link::WorkerFacts { slots: 0, ..facts(5) });
        let strangers: [(FromWorker, &str); 3] = [
            (event(), "has not registered"),
            (FromWorker::Register(facts(6)), "another one than it has proven to be"),
            (nameless(), "no facts of a worker"),
        ];
        for (said, what) in strangers {
            let mut worker = Raw::client(site.dial(), &worker_key(), 5).await;
            worker.says(0, said).await;
            let goodbye = worker.end().await;
            assert!(matches!(&goodbye, Some(Goodbye::Violation(text)) if text.contains(what)), "{goodbye:?}");
        }
        assert!(site.manager.state.lock().joined.is_empty());

        let (mut twice, _) = site.joined(1).await;
        twice.says(0, FromWorker::Register(facts(1))).await;
        let (mut garbled, _) = site.joined(2).await;
        garbled.send(Kind::Message, Lane::Calls, 0, &[250; 40]).await;
        let (mut calling, _) = site.joined(3).await;
        calling.send(Kind::Call, Lane::Calls, 0, &[0; 40]).await;
        let (mut confused, link) = site.joined(4).await;
        let counting = tokio::spawn(link.progress(JobId::random()));
        let (id, _) = confused.order().await;
        confused.says(id, FromWorker::Connected(Ok(()))).await;
        assert_eq!(counting.await.unwrap(), Progress::default());
        for mut worker in [twice, garbled, calling, confused] {
            let goodbye = worker.end().await;
            assert!(matches!(&goodbye, Some(Goodbye::Violation(_))), "{goodbye:?}");
        }
        site.manager.has_left(4).await;

        // What nobody asked, or nobody waits for any more, is passed over.
        let (mut late, link) = site.joined(7).await;
        drop(link.progress(JobId::random()));
        let (id, _) = late.order().await;
        late.says(id, FromWorker::Progressed(Progress::default())).await;
        late.says(99, FromWorker::Connected(Ok(()))).await;
        let counting = tokio::spawn(link.progress(JobId::random()));
        let (id, _) = late.order().await;
        late.says(id, FromWorker::Progressed(Progress::default())).await;
        counting.await.unwrap();
    });
}

#[test]
fn a_worker_that_is_silent_is_lost_but_not_before_its_lease_is_over() {
    let site = Site::new();
    block_on(async {
        let (worker, _) = site.joined(5).await;
        let begun = Instant::now();
        site.manager.has_left(1).await;
        let silent = begun.elapsed();
        // It was heard just before the time was taken.
        assert!(silent + Duration::from_millis(500) > SILENCE && silent > LEASE, "{silent:?}");
        let [(_, why)] = &site.manager.left()[..] else { panic!("it left more than once") };
        assert!(why.contains("silent"), "{why}");
        drop(worker);
    });
}

#[test]
fn an_environment_that_closes_waits_for_its_workers_to_go() {
    let site = Site::new();
    block_on(async {
        let (mut worker, link) = site.joined(5).await;
        let closing = tokio::spawn(link.close());
        assert!(matches!(worker.order().await, (0, ToWorker::Close)));
        drop(worker);
        closing.await.unwrap();
        site.manager.has_left(1).await;
    });
}

#[test]
fn signs_of_life_overtake_a_job_that_the_worker_takes_long_to_read() {
    let site = Site::new();
    block_on(async {
        let (mut worker, link) = site.joined(5).await;
        let job = JobId::random();
        // More than goes unheard from a client.
        let payload = Large { text: "x".repeat(12 << 20) }.into_payload();
        let large = Prepare { payload, ..prepare(job, Heard::default().events()) };
        let preparing = tokio::spawn(link.prepare(large));
        worker.begun(64 << 10).await;
        worker.send(Kind::Ping, Lane::Control, 77, &[]).await;
        let answer = loop {
            match worker.any().await {
                Some((Kind::Ping, ..)) => {}
                other => break other.map(|(kind, id, _)| (kind, id)),
            }
        };
        assert_eq!(answer, Some((Kind::Pong, 77)));
        let (id, ToWorker::Prepare(asked)) = worker.order().await else { panic!("no job to prepare") };
        assert!(asked.payload.parameters.len() > 12 << 20);
        worker.says(id, FromWorker::Prepared(Ok(prepared()))).await;
        preparing.await.unwrap().expect("it is prepared");
    });
}
