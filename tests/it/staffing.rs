//! Jobs of a node that has workers, while none is there.

use std::time::Duration;

use proscenium::{
    BuildRefusal, ControlError, Environment, JobHandle, JobId, JobState, Key, KeyRole, Limits, LocalEnvironment, Node,
    Outcome, QueryError, RemoteEnvironment, SubmitError, Worker, WorkerState, Workers, job_fn,
};
use tokio::task::JoinHandle;

use crate::support::{DEADLINE, block_on, deadline, ended, job, registered};

registered![Staffed];

job!(Staffed {}, |job, flow| {
    flow.from_batch(0..10u64).rebalance(2).collect("out");
});

/// A node that lets workers join, and none has.
struct Site {
    node: Node,
    env: RemoteEnvironment,
}

impl Site {
    async fn open(slots_deadline: Duration) -> Self {
        Self::open_at("127.0.0.1:0", slots_deadline).await
    }

    async fn open_at(address: &str, slots_deadline: Duration) -> Self {
        let limits = Limits { slots_deadline, ..Limits::default() };
        let node = Node::builder().jobs(crate::jobs()).address(address).key(Key::generate()).limits(limits);
        let node = node.task_threads(1).workers(Workers::joining()).open().expect("a node");
        let env = deadline("a client", node.connect("test")).await.expect("a client");
        Self { node, env }
    }

    fn submit(&self) -> JoinHandle<Result<JobHandle, SubmitError>> {
        tokio::spawn(self.env.submit(Staffed {}).autostop(true).into_future())
    }

    /// The one job that there is, which waits for a worker.
    async fn waiting(&self) -> JobId {
        deadline("the job in the list", async {
            loop {
                let jobs = self.env.jobs().await.expect("an open node");
                if let [job] = &jobs[..] {
                    assert_eq!((&*job.name, job.state), ("Staffed", JobState::Starting));
                    return job.id;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    async fn worker(&self, name: &str) -> Worker {
        let key = deadline("a key", self.env.add_key(name, KeyRole::Worker)).await.expect("an admin's wish");
        let address = self.node.address().expect("it listens").to_string();
        Worker::builder().jobs(crate::jobs()).manager(address).key(key).name(name).slots(2).open().expect("a worker")
    }
}

#[test]
fn a_job_waits_for_a_worker_and_says_so_and_runs_once_one_is_there() {
    block_on(async {
        let site = Site::open(DEADLINE).await;
        let submitted = site.submit();
        let id = site.waiting().await;
        let job = deadline("a handle", site.env.job(id)).await.unwrap();
        assert_eq!(job.status().await.unwrap().state, JobState::Starting);
        let explained = job.explain().await.unwrap();
        assert!(explained.waits.iter().any(|why| why.starts_with("no worker has joined")), "{explained:?}");
        let refused = job.pause().await;
        assert!(matches!(refused, Err(ControlError::Conflict { state: JobState::Starting, .. })), "{refused:?}");
        let end = tokio::spawn(job.wait());
        let worker = site.worker("worker").await;
        let job = deadline("the submit", submitted).await.unwrap().unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(deadline("the end", end).await.unwrap(), Ok(Outcome::Completed));
        let workers: Vec<_> = job.status().await.unwrap().tasks.into_iter().map(|task| task.worker).collect();
        assert!(workers.iter().any(|place| place.as_deref() == Some(worker.name())), "{workers:?}");
    });
}

#[test]
fn a_job_for_which_no_worker_comes_is_refused_by_name() {
    block_on(async {
        let site = Site::open(Duration::from_millis(20)).await;
        let refused = deadline("the submit", site.submit()).await.unwrap().unwrap_err();
        let SubmitError::Build(refusal @ BuildRefusal::NoWorker { .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.to_string(), "no worker has joined within 0.02 s");
        assert_eq!(site.env.jobs().await.unwrap(), []);
    });
}

#[test]
fn a_job_that_waits_for_a_worker_can_be_called_off() {
    block_on(async {
        let site = Site::open(DEADLINE * 10).await;
        for how in ["stop", "cancel", "delete"] {
            let submitted = site.submit();
            let id = site.waiting().await;
            let job = deadline("a handle", site.env.job(id)).await.unwrap();
            let end = tokio::spawn(job.wait());
            match how {
                "stop" => deadline(how, job.stop()).await.unwrap(),
                "cancel" => deadline(how, job.cancel()).await.unwrap(),
                _ => deadline(how, job.delete_forced()).await.unwrap(),
            }
            let refused = deadline("the submit", submitted).await.unwrap().unwrap_err();
            assert!(matches!(refused, SubmitError::Build(BuildRefusal::CalledOff)), "{how}: {refused:?}");
            let end = deadline("the end", end).await.unwrap();
            assert!(matches!(end, Err(QueryError::NoSuchJob { .. })), "{how}: {end:?}");
            assert_eq!(site.env.jobs().await.unwrap(), []);
        }
    });
}

/// Those within a process are never gone, but can be drained.
#[test]
fn closures_run_at_home_where_no_worker_takes_jobs_and_others_wait() {
    block_on(async {
        let limits = Limits { slots_deadline: Duration::from_millis(20), ..Limits::default() };
        let env = LocalEnvironment::builder("e").task_threads(1).limits(limits).workers(Workers::inside(1));
        let env = env.open().expect("an environment");
        assert_eq!(env.drain_worker("inside-1").await, Ok(1));
        assert_eq!(env.drain_worker("nobody").await, Ok(0));
        let listed = env.workers().await.unwrap();
        assert!(matches!(&listed[..], [worker] if worker.state == WorkerState::Draining), "{listed:?}");
        let closure = job_fn("closure", |flow| {
            flow.from_batch(0..10u64).collect("out");
            Ok(())
        });
        let job = deadline("the submit", env.submit(closure).autostop(true)).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let refused = deadline("the submit", env.submit(Staffed {})).await.unwrap_err();
        assert!(matches!(refused, SubmitError::Build(BuildRefusal::NoWorker { .. })), "{refused:?}");
    });
}

#[test]
fn a_node_and_its_workers_meet_by_ipv6() {
    // A machine may be without.
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    block_on(async {
        let site = Site::open_at("[::1]:0", DEADLINE).await;
        let workers = [site.worker("first").await, site.worker("second").await];
        assert!(workers.iter().all(|worker| worker.data_address().starts_with("[::1]:")), "{workers:?}");
        deadline("both workers", async {
            while site.env.workers().await.expect("an open node").len() < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let job = deadline("the submit", site.submit()).await.unwrap().unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}
