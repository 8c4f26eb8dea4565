//! What only a job on a node can meet: strangers, other versions, lost connections, and a node that dies.

#[cfg(feature = "tls")]
mod between;
mod cuts;
mod lost;
mod misfits;
mod names;
mod nodes;
mod refusals;
#[cfg(feature = "tls")]
mod roles;
#[cfg(feature = "tls")]
mod shares;
mod slow;
mod tells;
#[cfg(feature = "tls")]
mod tls;

use std::net::SocketAddr;

use proscenium::{Key, Limits, Node, RemoteEnvironment};

use crate::support::{Counter, Doorway, Echo, JournalSink, Pen, job};

job!(
    /// A source that goes on for as long as the test wants, and whose items are written down.
    Held { door: Doorway, pen: Pen }, |job, flow| {
        let (door, pen) = (job.door.clone(), job.pen.clone());
        flow.from_batch(0..10u64)
            .map_async(1, async move |_, n| {
                door.pass(n).await;
                Ok(n)
            })
            .sink(move || JournalSink::new(&pen));
    }
);

job!(
    /// Something of everything that a client can talk to.
    Everything { pen: Pen }, |job, flow| {
        let pen = job.pen.clone();
        flow.register_service("counter", move || Counter::new("counter", &pen));
        flow.register_service("echo", || Echo);
        let numbers = flow.from_channel::<u64>("numbers");
        let (kept, streamed) = numbers.map(|n| n * 2).tee();
        kept.collect("doubles");
        streamed.stream_out("live");
    }
);

pub fn jobs() -> proscenium::JobRegistry {
    proscenium::jobs![Held, Everything]
        .merge(refusals::jobs())
        .merge(cuts::jobs())
        .merge(nodes::jobs())
        .merge(misfits::jobs())
        .merge(names::jobs())
        .merge(tells::jobs())
}

/// A node of this process, and where it listens.
fn node(limits: Limits) -> (Node, SocketAddr, Key) {
    let key = Key::generate();
    let node = Node::builder().jobs(crate::jobs()).address("127.0.0.1:0").key(key.clone()).limits(limits);
    let node = node.task_threads(2).open().expect("a node can be opened");
    let address = node.address().expect("it listens");
    (node, address, key)
}

fn connect(address: impl ToString, key: &Key) -> RemoteEnvironment {
    RemoteEnvironment::connect("test", address.to_string()).key(key.clone()).blocking().expect("the node is there")
}
