//! Values of one client whose `Deserialize` takes its time hold up no other client, though all share one I/O thread.

use actix::{Actor, Context, Handler, Message};
use futures::join;
use proscenium::{BuildError, Environment, Flow, Job, JobHandle, Key, MessageTable, Node, Outcome, Service, jobs};
use serde::{Deserialize, Serialize};

use crate::support::{Counter, Door, Doorway, Increment, Journal, Pen, block_on, deadline, ended, job, read};

/// Decoded once it is let through its door.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Way", into = "Way")]
struct Late {
    way: Way,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Way {
    door: Doorway,
    name: String,
}

impl From<Way> for Late {
    fn from(way: Way) -> Self {
        // The structure of the type is found out with a name that is none.
        if way.name.starts_with("late ") {
            way.door.pass_blocking(&way.name);
        }
        Self { way }
    }
}

impl From<Late> for Way {
    fn from(late: Late) -> Self {
        late.way
    }
}

impl Late {
    fn new(door: &Door, name: &str) -> Self {
        Self { way: Way { door: door.way(), name: format!("late {name}") } }
    }
}

#[derive(Serialize, Deserialize)]
struct LateJob {
    late: Late,
}

impl Job for LateJob {
    const NAME: &'static str = "LateJob";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let name = self.late.way.name.clone();
        flow.from_batch([name]).collect("out");
        Ok(())
    }
}

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "String")]
struct Name(Late);

/// Answers with the name of what it got.
struct Namer;

impl Actor for Namer {
    type Context = Context<Self>;
}

impl Service for Namer {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Name>("name");
    }
}

impl Handler<Name> for Namer {
    type Result = String;

    fn handle(&mut self, Name(late): Name, _: &mut Self::Context) -> String {
        late.way.name
    }
}

job!(Named {}, |this, flow| {
    flow.register_service("namer", || Namer);
    flow.from_channel::<Late>("late").map(|late| late.way.name).collect("names");
});

job!(Quick { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.from_channel::<u64>("numbers").collect("out");
});

/// Another client goes about its business.
async fn goes_on(env: &dyn Environment, job: &JobHandle) {
    assert!(deadline("a question", env.health()).await.unwrap().accepting);
    deadline("an item", job.input("numbers").send(7u64)).await.unwrap();
}

#[test]
fn values_that_take_their_time_to_be_decoded_hold_up_no_other_client() {
    let key = Key::generate();
    let node = Node::builder().jobs(jobs![LateJob, Named, Quick]).address("127.0.0.1:0").key(key.clone());
    let node = node.io_threads(1).open().unwrap();
    let address = node.address().unwrap().to_string();
    block_on(async {
        let connect = || proscenium::RemoteEnvironment::connect("test", address.as_str()).key(key.clone());
        let (slow, quick) = (connect().await.unwrap(), connect().await.unwrap());
        let (journal, door) = (Journal::new(), Door::new().await);
        let other = quick.submit(Quick { pen: journal.pen() }).autostop(true).await.unwrap();

        // Parameters.
        let meanwhile = async {
            let visitor = door.arrival_of("late job").await;
            goes_on(&quick, &other).await;
            assert_eq!(other.service::<Counter>("counter").call(Increment).await, Ok(1));
            // Also for the client itself.
            assert!(deadline("a question", slow.health()).await.unwrap().accepting);
            visitor.admit();
        };
        let submit = slow.submit(LateJob { late: Late::new(&door, "job") }).into_future();
        let (job, ()) = join!(deadline("the submit", submit), meanwhile);
        let job = job.unwrap();
        assert_eq!(read::<String>(&job, "out").await, ["late job"]);

        // A message.
        let named = slow.submit(Named {}).autostop(true).await.unwrap();
        let meanwhile = async {
            let visitor = door.arrival_of("late message").await;
            goes_on(&quick, &other).await;
            visitor.admit();
        };
        let namer = named.service::<Namer>("namer");
        let call = namer.call(Name(Late::new(&door, "message"))).into_future();
        let (name, ()) = join!(deadline("the call", call), meanwhile);
        assert_eq!(name.as_deref(), Ok("late message"));

        // An item.
        let input = named.input::<Late>("late");
        let meanwhile = async {
            let visitor = door.arrival_of("late item").await;
            goes_on(&quick, &other).await;
            visitor.admit();
        };
        let (sent, ()) = join!(deadline("the item", input.send(Late::new(&door, "item"))), meanwhile);
        sent.unwrap();
        named.input::<Late>("late").finish().await.unwrap();
        assert_eq!(ended(&named).await, Outcome::Completed);
        assert_eq!(read::<String>(&named, "names").await, ["late item"]);
        other.input::<u64>("numbers").finish().await.unwrap();
        assert_eq!(read::<u64>(&other, "out").await, [7; 3]);
        slow.close().await;
        quick.close().await;
    });
    drop(node);
}
