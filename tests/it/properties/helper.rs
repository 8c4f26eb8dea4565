//! The service that random jobs call.

use actix::{Actor, Context, Handler, Message};
use proscenium::{MessageTable, NoReply, Service};
use serde::{Deserialize, Serialize};

#[derive(Default)]
pub struct Helper {
    calls: u64,
}

/// Twice this, wrapped around.
#[derive(Serialize, Deserialize)]
pub struct Double(pub u64);

impl Message for Double {
    type Result = u64;
}

/// What the pipeline is asked: the number, changed.
#[derive(Serialize, Deserialize)]
pub struct Changed(pub u64);

impl Message for Changed {
    type Result = Result<u64, NoReply>;
}

/// How many numbers were doubled.
#[derive(Serialize, Deserialize)]
pub struct Calls;

impl Message for Calls {
    type Result = u64;
}

impl Actor for Helper {
    type Context = Context<Self>;
}

impl Handler<Double> for Helper {
    type Result = u64;

    fn handle(&mut self, Double(number): Double, _: &mut Self::Context) -> u64 {
        self.calls += 1;
        number.wrapping_mul(2)
    }
}

impl Handler<Calls> for Helper {
    type Result = u64;

    fn handle(&mut self, _: Calls, _: &mut Self::Context) -> u64 {
        self.calls
    }
}

impl Service for Helper {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Double>("double").accept::<Calls>("calls");
    }
}
