use std::{sync::mpsc, time::Duration};

use actix::System;

use super::*;
use crate::{
    flow::{IntoJob, job_fn},
    host::Host,
    job::{Attempt, ErrorPolicy, Generation},
    link::{Place, WorkerLink},
    protocol::TaskEvent,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The worker's tasks of the job that it knows of, by what their counters read.
async fn tasks(link: &Embedded, job: JobId) -> Vec<TaskId> {
    link.progress(job).await.tasks.into_iter().map(|(task, ..)| task).collect()
}

#[test]
fn an_order_of_another_term_changes_nothing_and_only_tasks_that_are_named_are_started() {
    let (host, timer_thread) = Host::of_tests();
    let threads = Threads::default();
    let config = WorkerConfig { task_threads: 1, service_threads: 1, host, threads: Arc::clone(&threads), peers: None };
    let (heard, events) = mpsc::channel();
    let job = JobId::random();
    let present = Term { generation: Generation(1), attempt: Attempt(2) };
    System::new().block_on(async move {
        let link = Embedded { worker: Worker::new(config).start(), peers: None };
        let flow = job_fn("two tasks", |flow| {
            flow.from_batch(0..3u64).rebalance(1).collect("numbers");
            Ok(())
        });
        let prepare = Prepare {
            job,
            term: present,
            payload: flow.into_payload(),
            parallelism: 1,
            error_policy: ErrorPolicy::Fail,
            limits: Arc::default(),
            place: Place::Alone,
            splits: None,
            // The test may be over.
            events: Arc::new(move |event| drop(heard.send(event))),
        };
        let prepared = link.prepare(prepare).await.expect("the flow is in order");
        assert_eq!(prepared.graph.tasks.len(), 2);
        let start = || WorkerOrder::StartTasks { tasks: vec![(TaskId(1), 0)] };
        for (generation, attempt) in [(1, 1), (1, 3), (2, 2), (0, 2)] {
            let term = Term { generation: Generation(generation), attempt: Attempt(attempt) };
            for order in [start(), WorkerOrder::DropTasks, WorkerOrder::Release] {
                link.order(Order { job, term, order });
            }
        }
        assert_eq!(tasks(&link, job).await, []);
        link.order(Order { job, term: present, order: start() });
        assert_eq!(tasks(&link, job).await, [TaskId(1)]);
        link.order(Order { job, term: present, order: WorkerOrder::Release });
        assert_eq!(tasks(&link, job).await, []);
        link.close().await;
    });
    let event = events.recv_timeout(PATIENCE).expect("the task reports");
    let kind = WorkerEventKind::Task { task: TaskId(1), event: TaskEvent::Started };
    assert_eq!(event, WorkerEvent { job, term: present, kind });
    for arbiter in threads.lock().drain(..) {
        arbiter.join().expect("nothing panics through the arbiter");
    }
    timer_thread.stop_and_join();
}
