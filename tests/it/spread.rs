//! Services in workers that are processes of their own: where they run, and what becomes of their callers when one is killed.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use proscenium::{
    CallError, FailureCause, Fate, JobHandle, JobState, Limits, MessageTable, NoReply, Outcome, PipelineService,
    Service, ServiceContext, ServiceRef,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    Answer, Company, Counter, Door, Doorway, Echo, Increment, Journal, LateAnswer, Pen, block_on, deadline, ended,
    idle, job, registered,
};

registered![ServicesSpread, ServiceApart];

/// Adds one to what it is answered by the counter.
struct Follower(ServiceRef<Counter>);

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u64, CallError>")]
struct Follow;

impl Follower {
    fn new(ctx: &ServiceContext) -> Self {
        Self(ctx.service("counter").expect("it is registered"))
    }
}

impl Actor for Follower {
    type Context = Context<Self>;
}

impl Service for Follower {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Follow>("follow");
    }
}

impl Handler<Follow> for Follower {
    type Result = ResponseFuture<Result<u64, CallError>>;

    fn handle(&mut self, _: Follow, _: &mut Self::Context) -> Self::Result {
        let call = self.0.call(Increment);
        Box::pin(async move { Ok(call.await? + 1) })
    }
}

/// Answered with the square.
#[derive(Debug, Serialize, Deserialize, Message)]
#[rtype(result = "Result<u64, NoReply>")]
struct Square(u64);

job!(ServicesSpread { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.register_service_with("follower", Follower::new);
    flow.register_service("echo", || Echo);
    flow.pipeline_service("squares", |asked| asked.rebalance(2).map(|Square(n)| n * n));
});

async fn workers_of(job: &JobHandle) -> Vec<Option<String>> {
    job.status().await.unwrap().services.into_iter().map(|service| service.worker).collect()
}

#[test]
fn services_are_spread_over_the_workers_and_find_each_other() {
    block_on(async {
        let company = Company::open(Limits::default(), &[1, 1, 1]).await;
        let journal = Journal::new();
        let job = idle(&company.env, ServicesSpread { pen: journal.pen() }).await;
        let workers = workers_of(&job).await;
        assert!(workers.iter().all(Option::is_some), "home has none: {workers:?}");
        assert_eq!(workers[..3].iter().collect::<BTreeSet<_>>().len(), 3, "{workers:?}");
        let tasks: BTreeSet<_> = job.status().await.unwrap().tasks.into_iter().map(|task| task.worker).collect();
        assert_eq!(tasks, BTreeSet::from([workers[3].clone()]), "a pipeline's service is with its tasks");

        let follower: ServiceRef<Follower> = job.service("follower");
        let counter: ServiceRef<Counter> = job.service("counter");
        assert_eq!(deadline("an answer", follower.call(Follow)).await.unwrap(), Ok(2));
        assert_eq!(deadline("an answer", counter.call(Increment)).await, Ok(2));
        let squares: ServiceRef<PipelineService<Square>> = job.service("squares");
        assert_eq!(deadline("an answer", squares.call(Square(9))).await.unwrap(), Ok(81));
        let handled = job.status().await.unwrap().services.iter().map(|service| service.handled).collect::<Vec<_>>();
        assert_eq!(handled, [2, 1, 0, 1]);

        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(journal.lines(), ["counter started", "counter stopped after 2"]);
        company.close().await;
    });
}

job!(ServiceApart { door: Doorway }, |job, flow| {
    flow.register_service("echo", || Echo);
    let door = job.door.clone();
    flow.from_batch(0..1u64).for_each_async(1, async move |_, n| {
        door.pass(n).await;
        Ok(())
    });
});

/// The worker of the first service, as a position among those of the company, and its name.
async fn worker_of(job: &JobHandle) -> (usize, String) {
    let name = workers_of(job).await[0].clone().expect("it is in a worker");
    let number: usize = name.strip_prefix("worker-").and_then(|number| number.parse().ok()).expect("a number");
    (number - 1, name)
}

fn assert_lost(outcome: &Outcome, lost: &str) {
    let is_lost = matches!(outcome, Outcome::Failed(FailureCause::WorkerLost { worker, .. }) if worker == lost);
    assert!(is_lost, "{outcome}");
}

/// With a task that is held elsewhere, and with none: then the job has earned an outcome, which the loss replaces.
#[test]
fn a_job_whose_service_was_killed_with_its_worker_fails_by_name_and_callers_are_told() {
    block_on(async {
        for is_idle in [false, true] {
            let mut company = Company::open(Limits::default(), &[1, 1]).await;
            let (tasks, service) = (Door::new().await, Door::new().await);
            let submitted = company.env.submit(ServiceApart { door: tasks.way() });
            let job = deadline("the job's start", submitted).await.unwrap();
            let echo: ServiceRef<Echo> = job.service("echo");
            let taken_up = tokio::spawn(echo.call(LateAnswer(1, service.way())));
            let visitor = service.arrival_of("1").await;
            if is_idle {
                tasks.arrival().await.admit();
                crate::support::reached(&job, JobState::Idle).await;
            }
            let (index, lost) = worker_of(&job).await;
            assert_eq!(company.kill(index).0, lost);
            let error = deadline("the caller being told", taken_up).await.unwrap().unwrap_err();
            assert!(matches!(error.fate(), Fate::Unknown | Fate::Failed), "{error:?}");
            assert_lost(&ended(&job).await, &lost);
            let late = deadline("a refusal", echo.call(Answer(2))).await.unwrap_err();
            assert_eq!(late.fate(), Fate::NotSent, "{late:?}");
            drop(visitor);
            company.close().await;
        }
    });
}
