//! Calls an actor in another process.
//!
//! ```text
//! cargo run --example remote_service
//! ```
//!
//! It starts a second process of itself, which is the node; has it run a job that consists of one service; calls that;
//! and stops the node. It prints:
//!
//! ```text
//! the first visitor is greeted: hello, Ada, visitor 1 of process B
//! the second visitor is greeted: hello, Blaise, visitor 2 of process B
//! the service has no message for that: service `reception` does not accept ..
//! the job: completed
//! ```

use std::{
    error::Error,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use actix::{Actor, Context, Handler, Message};
use proscenium::{
    BuildError, Flow, Job, Key, MessageTable, Node, NodeStop, Outcome, RemoteEnvironment, Service, ServiceRef, jobs,
};
use serde::{Deserialize, Serialize};

/// Greets visitors, and counts them.
#[derive(Default)]
struct Reception {
    visitors: u32,
}

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "String")]
struct Visit {
    name: String,
}

/// A message that the actor handles, and that the service does not offer.
#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
struct CloseDown;

impl Actor for Reception {
    type Context = Context<Self>;
}

impl Handler<Visit> for Reception {
    type Result = String;

    fn handle(&mut self, Visit { name }: Visit, _: &mut Context<Self>) -> String {
        self.visitors += 1;
        let process = if std::env::args().len() > 1 { "B" } else { "A" };
        format!("hello, {name}, visitor {} of process {process}", self.visitors)
    }
}

impl Handler<CloseDown> for Reception {
    type Result = ();

    fn handle(&mut self, _: CloseDown, _: &mut Context<Self>) {}
}

impl Service for Reception {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Visit>("visit");
    }
}

#[derive(Serialize, Deserialize)]
struct FrontDesk;

impl Job for FrontDesk {
    const NAME: &'static str = "front-desk";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("reception", Reception::default);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(key_file) => be_node(&key_file),
        None => be_client(),
    }
}

fn be_node(key_file: &str) -> Result<(), Box<dyn Error>> {
    let node = Node::builder().jobs(jobs![FrontDesk]).address("127.0.0.1:0").key_file(key_file).open()?;
    println!("{}", node.address().ok_or("it listens")?);
    node.serve().blocking();
    Ok(())
}

fn be_client() -> Result<(), Box<dyn Error>> {
    // A key of their own, to leave that of the user's real nodes alone.
    let folder = std::env::temp_dir().join(format!("remote-service-{}", std::process::id()));
    let key_file = folder.join("key");
    let key = Key::from_file_or_new(&key_file)?;
    let mut node = Command::new(std::env::current_exe()?).arg(&key_file).stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    BufReader::new(node.stdout.take().ok_or("it is piped")?).read_line(&mut address)?;

    let env = RemoteEnvironment::connect("visitors", address.trim()).key(key).blocking()?;
    let job = env.submit(FrontDesk).blocking()?;
    let reception: ServiceRef<Reception> = job.service("reception");
    println!("the first visitor is greeted: {}", reception.call(Visit { name: "Ada".to_owned() }).blocking()?);
    println!("the second visitor is greeted: {}", reception.call(Visit { name: "Blaise".to_owned() }).blocking()?);
    match reception.call(CloseDown).blocking() {
        Err(error) => println!("the service has no message for that: {error}"),
        Ok(()) => return Err("what is not offered was accepted".into()),
    }
    job.blocking().stop()?;
    let outcome = job.blocking().wait()?;
    println!("the job: {outcome}");
    assert!(matches!(outcome, Outcome::Stopped | Outcome::Completed));

    tokio::runtime::Builder::new_current_thread().build()?.block_on(env.stop_node(NodeStop::Drain))?;
    assert!(node.wait()?.success());
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
