//! Services that tests call.

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use proscenium::{MessageTable, Service};
use serde::{Deserialize, Serialize};

use super::{Doorway, Pen};

/// Counts, and writes down when it starts and stops.
#[derive(Debug)]
pub struct Counter {
    name: String,
    pen: Pen,
    count: u64,
}

impl Counter {
    pub fn new(name: &str, pen: &Pen) -> Self {
        Self { name: name.to_owned(), pen: pen.clone(), count: 0 }
    }
}

/// Counts one; answered with the count.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "u64")]
pub struct Increment;

/// Answered with the count.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "u64")]
pub struct Total;

/// Makes the handler panic.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "()")]
pub struct Crash;

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.pen.write(format_args!("{} started", self.name));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.pen.write(format_args!("{} stopped after {}", self.name, self.count));
    }
}

impl Service for Counter {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Increment>("increment").accept::<Total>("total").accept::<Crash>("crash");
    }
}

impl Handler<Increment> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Increment, _: &mut Self::Context) -> u64 {
        self.count += 1;
        self.count
    }
}

impl Handler<Total> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Total, _: &mut Self::Context) -> u64 {
        self.count
    }
}

impl Handler<Crash> for Counter {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as told");
    }
}

/// Answers with what it is asked, at once or when the test says so.
#[derive(Debug)]
pub struct Echo;

/// Answered with the number, at once.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "u64")]
pub struct Answer(pub u64);

/// Answered with the number, once let through the door. Others are answered meanwhile.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "u64")]
pub struct LateAnswer(pub u64, pub Doorway);

/// Answered with the number, once let through the door. Nobody else is answered meanwhile.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "u64")]
pub struct SlowAnswer(pub u64, pub Doorway);

/// A reply that is never made: the future that should make it panics.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "u64")]
pub struct LoseReply;

impl Actor for Echo {
    type Context = Context<Self>;
}

impl Service for Echo {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Answer>("answer").accept::<LateAnswer>("late-answer").accept::<SlowAnswer>("slow-answer");
        table.accept::<LoseReply>("lose-reply").accept::<Crash>("crash");
    }
}

impl Handler<Answer> for Echo {
    type Result = u64;

    fn handle(&mut self, Answer(number): Answer, _: &mut Self::Context) -> u64 {
        number
    }
}

impl Handler<LateAnswer> for Echo {
    type Result = ResponseFuture<u64>;

    fn handle(&mut self, LateAnswer(number, door): LateAnswer, _: &mut Self::Context) -> Self::Result {
        Box::pin(async move {
            door.pass(number).await;
            number
        })
    }
}

impl Handler<SlowAnswer> for Echo {
    type Result = u64;

    fn handle(&mut self, SlowAnswer(number, door): SlowAnswer, _: &mut Self::Context) -> u64 {
        door.pass_blocking(number);
        number
    }
}

impl Handler<LoseReply> for Echo {
    type Result = ResponseFuture<u64>;

    fn handle(&mut self, _: LoseReply, _: &mut Self::Context) -> Self::Result {
        Box::pin(async { panic!("the reply is lost") })
    }
}

impl Handler<Crash> for Echo {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as told");
    }
}
