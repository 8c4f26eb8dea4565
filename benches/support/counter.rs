//! A service that counts, and the job that has it.

use actix::{Actor, Context, Handler, Message};
use proscenium::{BuildError, Flow, Job, MessageTable, Service};
use serde::{Deserialize, Serialize};

#[derive(Default)]
pub struct Counter(u64);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
pub struct Add(pub u64);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
pub struct Sum;

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Service for Counter {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Add>("add").accept::<Sum>("sum");
    }
}

impl Handler<Add> for Counter {
    type Result = ();

    fn handle(&mut self, Add(n): Add, _: &mut Context<Self>) {
        self.0 += n;
    }
}

impl Handler<Sum> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Sum, _: &mut Context<Self>) -> u64 {
        self.0
    }
}

#[derive(Serialize, Deserialize)]
pub struct Counting;

impl Job for Counting {
    const NAME: &'static str = "counting";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("counter", Counter::default);
        Ok(())
    }
}
