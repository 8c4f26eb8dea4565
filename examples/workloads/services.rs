//! Messages to services, and calls of them.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use actix::{Actor, Context, Handler, Message, MessageResult, ResponseFuture};
use futures::{StreamExt, TryStreamExt, stream};
use proscenium::{BuildError, Flow, Job, MessageTable, Service, ServiceMessage, ServiceRef};
use serde::{Deserialize, Serialize};

use crate::{
    Place,
    jobs::TenItems,
    measure::{footprint, report},
};

const ROUND: u64 = 1024;

#[derive(Default)]
pub(crate) struct Counter(u64);

/// A number, and what makes 64 bytes of it.
#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
pub(crate) struct AddPadded(pub u8, pub [u64; 7]);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
pub(crate) struct Add(pub u64);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
pub(crate) struct Sum;

/// What [`footprint`] says of the process of the service.
#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "(u64, u64)")]
pub(crate) struct Footprint;

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Service for Counter {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Add>("add").accept::<AddPadded>("add-padded").accept::<Sum>("sum");
        table.accept::<Footprint>("footprint");
    }
}

impl Handler<Add> for Counter {
    type Result = ();

    fn handle(&mut self, Add(n): Add, _: &mut Context<Self>) {
        self.0 += n;
    }
}

impl Handler<AddPadded> for Counter {
    type Result = ();

    fn handle(&mut self, AddPadded(n, _): AddPadded, _: &mut Context<Self>) {
        self.0 += u64::from(n);
    }
}

impl Handler<Sum> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Sum, _: &mut Context<Self>) -> u64 {
        self.0
    }
}

impl Handler<Footprint> for Counter {
    type Result = MessageResult<Footprint>;

    fn handle(&mut self, _: Footprint, _: &mut Context<Self>) -> Self::Result {
        MessageResult(footprint().unwrap_or_default())
    }
}

/// A job that consists of one service.
#[derive(Serialize, Deserialize)]
pub(crate) struct Counting;

impl Job for Counting {
    const NAME: &'static str = "counting";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("counter", Counter::default);
        Ok(())
    }
}

/// Calls another service, and answers how many nanoseconds that took.
#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
struct AskOther(u64);

struct Asker(ServiceRef<Counter>);

impl Actor for Asker {
    type Context = Context<Self>;
}

impl Service for Asker {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<AskOther>("ask-other");
    }
}

impl Handler<AskOther> for Asker {
    type Result = ResponseFuture<u64>;

    fn handle(&mut self, AskOther(calls): AskOther, _: &mut Context<Self>) -> Self::Result {
        let counter = self.0.clone();
        Box::pin(async move {
            let start = Instant::now();
            for _ in 0..calls {
                counter.call(Sum).await.expect("the counter answers");
            }
            u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
        })
    }
}

/// A service and another one that calls it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Asking;

impl Job for Asking {
    const NAME: &'static str = "asking";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("counter", Counter::default);
        flow.register_service_with("asker", |ctx| Asker(ctx.service("counter").expect("it is registered")));
        Ok(())
    }
}

/// Services that nobody calls.
#[derive(Serialize, Deserialize)]
pub(crate) struct Idling {
    services: u64,
}

impl Job for Idling {
    const NAME: &'static str = "idling";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        for service in 0..self.services {
            flow.register_service(&service.to_string(), Counter::default);
        }
        Ok(())
    }
}

pub(crate) fn with_counter(
    place: &Place,
    body: impl FnOnce(ServiceRef<Counter>) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    let job = env.submit(Counting).blocking()?;
    body(job.service("counter"))?;
    job.blocking().stop()?;
    job.blocking().wait()?.into_result()?;
    Ok(())
}

pub(crate) fn tell<M>(
    what: &str,
    counter: &ServiceRef<Counter>,
    messages: u64,
    message: impl Fn() -> M,
) -> Result<(), Box<dyn Error>>
where
    Counter: Handler<M> + Handler<Sum>,
    M: ServiceMessage,
{
    let mut rounds = Vec::new();
    let start = Instant::now();
    let mut sent = 0;
    while sent < messages {
        let round = Instant::now();
        let until = messages.min(sent + ROUND);
        let count = until - sent;
        while sent < until {
            counter.tell(message()).blocking()?;
            sent += 1;
        }
        assert_eq!(counter.call(Sum).blocking()?, sent);
        rounds.push(round.elapsed() / u32::try_from(count)?);
    }
    report(what, messages, start.elapsed(), rounds);
    Ok(())
}

pub(crate) fn ask(what: &str, counter: &ServiceRef<Counter>, calls: u64) -> Result<(), Box<dyn Error>> {
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..calls {
        let call = Instant::now();
        counter.call(Sum).blocking()?;
        latencies.push(call.elapsed());
    }
    report(what, calls, start.elapsed(), latencies);
    Ok(())
}

pub(crate) fn ask_inside(calls: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    let job = env.submit(Asking).blocking()?;
    let asker = job.service::<Asker>("asker");
    let nanoseconds = asker.call(AskOther(calls)).deadline(Duration::from_secs(3600)).blocking()?;
    job.blocking().stop()?;
    let mean = nanoseconds as f64 / calls as f64 / 1e3;
    println!("ask-inside {:.0}/s mean {mean:.3}us", 1e6 / mean);
    Ok(())
}

pub(crate) fn idle(services: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    env.submit(TenItems).autostop(true).blocking()?.blocking().wait()?.into_result()?;
    let (before, _) = footprint()?;
    let job = env.submit(Idling { services }).blocking()?;
    // Services start one after the other; the last one answers once all of them have.
    let last = job.service::<Counter>(&(services - 1).to_string());
    last.call(Sum).deadline(Duration::from_secs(3600)).blocking()?;
    let (after, used) = footprint()?;
    // For as long as nothing happens.
    std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_secs(2)).ok();
    let used = footprint()?.1 - used;
    println!(
        "idle {services} services, {} bytes each, {:.1} ms of CPU in 2 s",
        (after - before) / services.max(1),
        used as f64 / 1e6
    );
    job.blocking().cancel()?;
    job.blocking().wait()?.into_result()?;
    Ok(())
}

pub(crate) fn ask_64(counter: &ServiceRef<Counter>, calls: u64) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let start = Instant::now();
        let calling = stream::iter(0..calls).map(async |_| {
            let call = Instant::now();
            counter.call(Sum).await.map(|_| call.elapsed())
        });
        let latencies = calling.buffer_unordered(64).try_collect().await?;
        report("remote-ask-64", calls, start.elapsed(), latencies);
        Ok(())
    })
}
