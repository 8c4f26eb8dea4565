//! Jobs that end because nobody holds them.

use std::{future::Future, time::Duration};

use futures::FutureExt;
use proscenium::{
    CancelReason, Environment, JobId, JobState, JobStatus, Key, Limits, Outcome, RemoteEnvironment, Warning,
};

use crate::support::{
    Answer, Echo, NodeProcess, Proxy, Swallow, block_on, deadline, each_environment, job, reached, registered,
};

/// Far longer than it takes to let go of a job and to take hold of it again.
const LEASE: Duration = Duration::from_secs(3);

job!(Leased {}, |job, flow| {
    flow.register_service("echo", || Echo);
    flow.from_channel::<u64>("in").collect("out");
});

// Nobody reads it, so it cannot drain.
job!(LeasedUnread {}, |job, flow| {
    flow.from_batch(0u64..).stream_out("out");
});

/// The end of a job, followed without holding it: the handle that each look takes is gone when it is answered, so these
/// looks are further apart than the lease.
async fn ended_unheld(env: &dyn Environment, id: JobId, lease: Duration) -> JobStatus {
    deadline("the end of the job", async {
        loop {
            let jobs = env.jobs().await.unwrap();
            let status = jobs.into_iter().find(|status| status.id == id).expect("it is known");
            if status.state == JobState::Ended {
                return status;
            }
            timer(lease / 20).await;
        }
    })
    .await
}

/// Time that has to go by for there is nothing to be told of: a lease is over, or is not.
fn timer(time: Duration) -> impl Future<Output = ()> {
    tokio::time::timeout(time, std::future::pending::<()>()).map(drop)
}

#[test]
fn a_job_that_nobody_holds_is_stopped_after_its_lease_and_says_so() {
    each_environment(async |env| {
        let lease = Duration::from_millis(50);
        let job = deadline("submit", env.submit(Leased {}).lease(lease)).await.unwrap();
        let status = job.status().await.unwrap();
        let holder = status.held_by.expect("the client that submitted it");
        assert_eq!((holder.client.as_str(), holder.until), ("test", None));
        assert_eq!(status.lease, Some(lease));
        timer(4 * lease).await;
        assert!(job.status().await.unwrap().is_running(), "it is held");
        let (id, echo) = (job.id(), job.service::<Echo>("echo"));
        drop(job);
        timer(4 * lease).await;
        assert_eq!(deadline("a call", echo.call(Answer(1))).await.unwrap(), 1, "what came from a handle holds, too");
        drop(echo);
        let status = ended_unheld(env, id, lease).await;
        assert_eq!(status.outcome, Some(Outcome::Stopped));
        let [Warning::LeaseExpired { lease: told, holder }] = &status.warnings[..] else { panic!("{status:?}") };
        assert_eq!(*told, lease);
        let holder = holder.as_ref().expect("somebody held it");
        assert!(holder.client == "test" && holder.until.is_some(), "{holder:?}");
        assert!(status.warnings[0].to_string().starts_with("stopped, because no client held a handle for 50ms"));
    });
}

#[test]
fn a_handle_made_again_in_time_and_a_wait_keep_a_job_going() {
    each_environment(async |env| {
        let job = deadline("submit", env.submit(Leased {}).lease(LEASE)).await.unwrap();
        let id = job.id();
        let clone = job.clone();
        drop(job);
        drop(clone);
        let again = deadline("the job", env.job(id)).await.unwrap();
        let wait = tokio::spawn(again.wait());
        drop(again);
        timer(LEASE + LEASE / 4).await;
        assert!(!wait.is_finished(), "whoever waits for it holds it");
        let again = deadline("the job", env.job(id)).await.unwrap();
        assert_eq!(again.status().await.unwrap().state, JobState::Running);
        again.input::<u64>("in").finish().await.unwrap();
        again.stop().await.unwrap();
        assert!(deadline("the end", wait).await.unwrap().unwrap().is_drained());
        assert!(again.status().await.unwrap().warnings.is_empty());
    });
}

#[test]
fn a_paused_and_an_idle_job_are_stopped_and_one_that_cannot_drain_is_cancelled() {
    each_environment(async |env| {
        let lease = Duration::from_millis(50);
        let paused = deadline("submit", env.submit(Leased {}).lease(lease)).await.unwrap();
        reached(&paused, JobState::Running).await;
        paused.pause().await.unwrap();
        reached(&paused, JobState::Paused).await;
        let idle = deadline("submit", env.submit(Leased {}).lease(lease)).await.unwrap();
        idle.input::<u64>("in").finish().await.unwrap();
        reached(&idle, JobState::Idle).await;
        let unread = deadline("submit", env.submit(LeasedUnread {}).lease(lease)).await.unwrap();
        let ids = [paused.id(), idle.id(), unread.id()];
        drop((paused, idle, unread));
        let mut outcomes = Vec::new();
        for id in ids {
            outcomes.push(ended_unheld(env, id, lease).await.outcome.expect("it has ended"));
        }
        assert_eq!(outcomes[..2], [Outcome::Stopped, Outcome::Completed]);
        let cancelled = matches!(outcomes[2], Outcome::Cancelled { reason: CancelReason::LeaseExpired, .. });
        assert!(cancelled, "{outcomes:?}");
    });
}

#[test]
fn a_job_whose_client_is_gone_for_good_is_stopped_and_one_whose_client_comes_back_goes_on() {
    let node = NodeProcess::start(&Limits::default());
    let proxy = Proxy::to(node.address().parse().expect("an address"));
    block_on(async {
        let observer = node.connect().await.unwrap();
        let key = Key::from_hex(&"5a".repeat(32)).unwrap();
        let env = RemoteEnvironment::connect("away", proxy.address()).key(key).await.unwrap();
        let kept = deadline("submit", env.submit(Leased {}).lease(LEASE)).await.unwrap();
        proxy.cut();
        // The connection is made anew and the job held over it, before its lease is over.
        assert!(kept.status().await.unwrap().is_running());
        timer(LEASE + LEASE / 4).await;
        assert!(kept.status().await.unwrap().is_running(), "it is held over the new connection");
        let id = kept.id();
        // Gone without a word: no handle is dropped.
        proxy.swallow_new(Swallow { to_node: true, to_client: true });
        proxy.cut();
        let status = ended_unheld(&observer, id, LEASE).await;
        assert_eq!(status.outcome, Some(Outcome::Stopped));
        let holder = status.held_by.expect("it was held");
        let from_here = holder.address.as_ref().is_some_and(|address| address.starts_with("127.0.0.1:"));
        assert!(holder.client == "away" && holder.until.is_some() && from_here, "{holder:?}");
        drop(kept);
        drop(env);
        observer.close().await;
    });
    node.end();
}

registered![Leased, LeasedUnread];
