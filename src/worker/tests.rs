use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use actix::System;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::*;
use crate::{
    flow::{IntoJob, job_fn},
    host::{Fence, Host},
    job::{Attempt, ErrorPolicy, Generation},
    link::{OwnWorker, Place, WorkerLink},
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
    let (heard, mut events) = unbounded_channel();
    let job = JobId::random();
    let present = Term { generation: Generation(1), attempt: Attempt(2) };
    let ordering = async move {
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
            fence: Fence::default(),
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
        // Before it is released, as the thread may else be gone before the task has had a turn.
        let kind = WorkerEventKind::Task { task: TaskId(1), event: TaskEvent::Started };
        assert_eq!(events.recv().await, Some(WorkerEvent { job, term: present, kind }));
        link.order(Order { job, term: present, order: WorkerOrder::Release });
        assert_eq!(tasks(&link, job).await, []);
        link.close().await;
    };
    System::new().block_on(async { tokio::time::timeout(PATIENCE, ordering).await.expect("it ends") });
    for arbiter in threads.lock().drain(..) {
        arbiter.join().expect("nothing panics through the arbiter");
    }
    timer_thread.stop_and_join();
}

/// Tells when it is dropped.
struct Guard(UnboundedSender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.send(());
    }
}

#[test]
fn a_worker_that_is_halted_drops_its_jobs_and_those_that_are_being_built_and_takes_others() {
    let (host, timer_thread) = Host::of_tests();
    let threads = Threads::default();
    let config = WorkerConfig { task_threads: 1, service_threads: 1, host, threads: Arc::clone(&threads), peers: None };
    let term = Term { generation: Generation(1), attempt: Attempt(1) };
    let (gone, mut is_gone) = unbounded_channel();
    let (builds, mut build) = unbounded_channel();
    let (building, is_built) = mpsc::channel::<()>();
    let halting = async move {
        let link = Embedded { worker: Worker::new(config).start(), peers: None };
        let prepare = |payload| Prepare {
            job: JobId::random(),
            term,
            payload,
            parallelism: 1,
            error_policy: ErrorPolicy::Fail,
            limits: Arc::default(),
            place: Place::Alone,
            splits: None,
            events: Arc::new(|_| {}),
            fence: Fence::default(),
        };
        let endless = |guard: Arc<Guard>| {
            let flow = job_fn("endless", move |flow| {
                let guard = Arc::clone(&guard);
                flow.from_batch(0..u64::MAX).for_each(move |_| {
                    let _ = &guard;
                });
                Ok(())
            });
            flow.into_payload()
        };
        let running = prepare(endless(Arc::new(Guard(gone.clone()))));
        let job = running.job;
        link.prepare(running).await.expect("the flow is in order");
        let tasks_of = |tasks| Order { job, term, order: WorkerOrder::StartTasks { tasks } };
        link.order(tasks_of(vec![(TaskId(0), 0)]));
        assert_eq!(tasks(&link, job).await, [TaskId(0)]);
        let slow = job_fn("slow", move |flow| {
            builds.send(()).expect("it is waited for");
            is_built.recv_timeout(PATIENCE).expect("it goes on");
            flow.from_batch(0..3u64).collect("numbers");
            Ok(())
        });
        let slow = prepare(slow.into_payload());
        let preparing = link.prepare(slow);
        build.recv().await.expect("it is being built");

        link.halt();
        assert_eq!(tasks(&link, job).await, []);
        building.send(()).expect("it is waited for");
        assert_eq!(preparing.await.err(), Some(Unprepared::Gone));
        assert_eq!(is_gone.recv().await, Some(()));

        // On a thread of its own, whatever the other one does.
        let next = prepare(endless(Arc::new(Guard(gone))));
        let job = next.job;
        link.prepare(next).await.expect("the flow is in order");
        link.order(Order { job, term, order: WorkerOrder::StartTasks { tasks: vec![(TaskId(0), 0)] } });
        assert_eq!(tasks(&link, job).await, [TaskId(0)]);
        link.halt();
        assert_eq!(is_gone.recv().await, Some(()));
        link.close().await;
    };
    System::new().block_on(async { tokio::time::timeout(PATIENCE, halting).await.expect("it ends") });
    for arbiter in threads.lock().drain(..) {
        arbiter.join().expect("nothing panics through the arbiter");
    }
    timer_thread.stop_and_join();
}

/// A process that was stopped wakes after its lease, and has orders of before in its mailboxes.
#[test]
fn behind_a_closed_fence_a_task_takes_no_step_and_can_still_be_cancelled() {
    let (host, timer_thread) = Host::of_tests();
    let threads = Threads::default();
    let fence = Fence::new(&host);
    fence.open_until(host.running_for() + 10 * PATIENCE);
    let config = WorkerConfig { task_threads: 1, service_threads: 1, host, threads: Arc::clone(&threads), peers: None };
    let term = Term { generation: Generation(1), attempt: Attempt(1) };
    let items = Arc::new(AtomicU64::new(0));
    let (first, mut is_first) = unbounded_channel();
    let (heard, mut events) = unbounded_channel();
    let fencing = async move {
        let link = Embedded { worker: Worker::new(config).start(), peers: None };
        let counted = Arc::clone(&items);
        let flow = job_fn("endless", move |flow| {
            let (counted, first) = (Arc::clone(&counted), first.clone());
            flow.from_batch(0..u64::MAX).for_each(move |_| {
                if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                    first.send(()).expect("it is waited for");
                }
            });
            Ok(())
        });
        let job = JobId::random();
        let prepare = Prepare {
            job,
            term,
            payload: flow.into_payload(),
            parallelism: 1,
            error_policy: ErrorPolicy::Fail,
            limits: Arc::default(),
            place: Place::Alone,
            splits: None,
            // The test may be over.
            events: Arc::new(move |event| drop(heard.send(event))),
            fence: fence.clone(),
        };
        link.prepare(prepare).await.expect("the flow is in order");
        link.order(Order { job, term, order: WorkerOrder::StartTasks { tasks: vec![(TaskId(0), 0)] } });
        is_first.recv().await.expect("an item");
        fence.close();
        fence.vacated().await;
        let before = items.load(Ordering::SeqCst);
        for command in [TaskCommand::Hold { epoch: 1 }, TaskCommand::Cancel] {
            link.order(Order { job, term, order: WorkerOrder::CommandTasks { command } });
        }
        while !matches!(
            events.recv().await.expect("its end is told").kind,
            WorkerEventKind::Task { event: TaskEvent::Cancelled(_), .. }
        ) {}
        assert_eq!(items.load(Ordering::SeqCst), before, "it went on although the lease is over");
        link.order(Order { job, term, order: WorkerOrder::Release });
        link.close().await;
    };
    System::new().block_on(async { tokio::time::timeout(PATIENCE, fencing).await.expect("it ends") });
    for arbiter in threads.lock().drain(..) {
        arbiter.join().expect("nothing panics through the arbiter");
    }
    timer_thread.stop_and_join();
}
