//! What all clients with one named key may have together.

use proscenium::{ConnectError, JobHandle, Key, KeyRole, Node, RemoteEnvironment, SubmitError};

use super::{Everything, connect};
use crate::support::{Journal, Pen, block_on, deadline, ended, job};

job!(
    /// Of no node.
    Unregistered { pen: Pen }, |job, flow| {
        let _ = &job.pen;
        flow.from_batch(0..1u64).for_each(|_| ());
    }
);

struct Place {
    node: Node,
    admin: RemoteEnvironment,
}

impl Place {
    fn new() -> Self {
        let key = Key::generate();
        let node = Node::builder().jobs(crate::jobs()).address("127.0.0.1:0").key(key.clone()).task_threads(2);
        let node = node.submitter_jobs_max(2).open().unwrap();
        let admin = connect(node.address().unwrap(), &key);
        Self { node, admin }
    }

    fn key(&self, name: &str, role: KeyRole) -> Key {
        block_on(self.admin.add_key(name, role)).unwrap()
    }

    fn connect(&self, key: &Key) -> Result<RemoteEnvironment, ConnectError> {
        RemoteEnvironment::connect("test", self.node.address().unwrap().to_string()).key(key.clone()).blocking()
    }
}

async fn cancelled(job: &JobHandle) {
    job.cancel().await.unwrap();
    let _ = ended(job).await;
}

#[test]
fn the_clients_of_one_submitter_have_a_number_of_jobs_together_and_ended_ones_give_room() {
    let (place, journal) = (Place::new(), Journal::new());
    let (etl, other) = (place.key("etl", KeyRole::Submitter), place.key("etl-2", KeyRole::Submitter));
    let [one, two, other] = [&etl, &etl, &other].map(|key| place.connect(key).unwrap());
    let submit = |env: &RemoteEnvironment| env.submit(Everything { pen: journal.pen() });
    block_on(async {
        let first = submit(&one).await.unwrap();
        for _ in 0..3 {
            // What is refused for another reason takes no place.
            let refused = one.submit(Unregistered { pen: journal.pen() }).await.unwrap_err();
            assert!(matches!(refused, SubmitError::UnknownJob { .. }), "{refused:?}");
        }
        let second = submit(&two).await.unwrap();
        for env in [&one, &two] {
            let refused = submit(env).await.unwrap_err();
            assert_eq!(refused, SubmitError::TooManyJobs { key: "etl".to_owned(), limit: 2 });
            assert_eq!(refused.to_string(), "the key `etl` has 2 jobs that have not ended, and may have no more");
        }
        // Other keys have limits of their own, and the node's own key has none.
        let mut jobs = vec![submit(&other).await.unwrap(), submit(&other).await.unwrap()];
        for _ in 0..3 {
            jobs.push(submit(&place.admin).await.unwrap());
        }
        cancelled(&first).await;
        jobs.push(submit(&two).await.unwrap());
        let refused = submit(&one).await.unwrap_err();
        assert!(matches!(refused, SubmitError::TooManyJobs { .. }), "{refused:?}");
        cancelled(&second).await;
        second.delete().await.unwrap();
        jobs.push(submit(&one).await.unwrap());
        for job in &jobs {
            cancelled(job).await;
        }
    });
    [&one, &two, &other, &place.admin].into_iter().for_each(|env| env.blocking().close());
}

#[test]
fn a_named_key_has_64_connections_and_one_more_is_told_so() {
    let place = Place::new();
    let (dashboard, other) = (place.key("dashboard", KeyRole::Reader), place.key("wall", KeyRole::Reader));
    let mut connections: Vec<_> = (0..64).map(|_| place.connect(&dashboard).unwrap()).collect();
    let error = place.connect(&dashboard).unwrap_err();
    assert!(error.to_string().contains("the key `dashboard` has 64"), "{error:?}");
    assert!(connections.iter().all(|env| env.blocking().health().unwrap().accepting));
    connections.push(place.connect(&other).unwrap());
    connections.swap_remove(0).blocking().close();
    let address = place.node.address().unwrap().to_string();
    let again = block_on(deadline("a place that is free again", async {
        loop {
            // The node may not have heard yet that one has gone.
            if let Ok(env) = RemoteEnvironment::connect("test", &*address).key(dashboard.clone()).await {
                break env;
            }
        }
    }));
    connections.push(again);
    connections.iter().chain([&place.admin]).for_each(|env| env.blocking().close());
}
