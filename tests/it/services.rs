//! Services: calls and their answers.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context as TaskContext, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use proscenium::{
    ActorState, BuildRefusal, CallError, Environment, FailureCause, Fate, JobHandle, JobId, JobState, JobStatus,
    Limits, LocalEnvironment, MessageTable, Outcome, QueryError, Service, ServiceContext, ServiceRef,
};
use serde::{Deserialize, Serialize};
use tokio::task::{Unconstrained, unconstrained};

use crate::support::{
    Answer, Counter, Door, Doorway, Echo, Increment, Journal, LateAnswer, Pen, Place, SlowAnswer, Total, block_on,
    completed, deadline, each_environment, each_place_with, ended, idle, job, on_a_thread, read, refusal, registered,
    sorted, start,
};

job!(CountItems { items: u64, pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    let counted = flow.from_batch(0..job.items).map_async(1, async |ctx, _| {
        let counter = ctx.service::<Counter>("counter")?;
        Ok(counter.call(Increment).await?)
    });
    counted.collect("answers");
});

#[test]
fn a_service_answers_every_call_of_a_task_and_stops_after_the_last() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = completed(env, CountItems { items: 5, pen: journal.pen() }).await;
        assert_eq!(read::<u64>(&job, "answers").await, [1, 2, 3, 4, 5]);
        assert_eq!(journal.lines(), ["counter started", "counter stopped after 5"]);
        let service = &job.status().await.unwrap().services[0];
        assert_eq!((service.name.as_str(), service.handled, service.queued), ("counter", 5, 0));
        assert_eq!((service.state, service.restarts), (ActorState::Finished, 0));
    });
}

job!(Echoes {}, |job, flow| {
    flow.register_service("echo", || Echo);
});

#[test]
fn a_call_that_misses_its_deadline_fails_and_the_next_one_gets_its_own_answer() {
    each_environment(async |env| {
        let job = idle(env, Echoes {}).await;
        let echo: ServiceRef<Echo> = job.service("echo");
        let door = Door::new().await;
        let limit = Duration::from_millis(50);

        // The service goes on while the reply is being made.
        let before = Instant::now();
        let late = echo.call(LateAnswer(1, door.way())).deadline(limit).await.unwrap_err();
        assert!(before.elapsed() >= limit, "it gave up early");
        assert_eq!(late, CallError::Timeout { service: "echo".to_owned(), deadline: limit });
        assert_eq!(late.fate(), Fate::Unknown);
        assert_eq!(late.to_string(), "service `echo` did not reply within 0.05 s");
        assert_eq!(echo.call(Answer(2)).await.unwrap(), 2);
        door.arrival_of("1").await.admit();
        assert_eq!(echo.call(Answer(3)).await.unwrap(), 3);

        // The service handles nothing else while it works.
        let late = echo.call(SlowAnswer(4, door.way())).deadline(limit).await.unwrap_err();
        assert!(matches!(late, CallError::Timeout { .. }), "{late:?}");
        let mut next = std::pin::pin!(echo.call(Answer(5)));
        assert_eq!(next.as_mut().now_or_never(), None);
        door.arrival_of("4").await.admit();
        assert_eq!(deadline("the answer", next).await.unwrap(), 5);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_call_that_was_given_up_while_queued_is_never_handled() {
    each_environment(async |env| {
        let job = idle(env, Echoes {}).await;
        let echo: ServiceRef<Echo> = job.service("echo");
        let door = Door::new().await;
        let slow = tokio::spawn(echo.call(SlowAnswer(1, door.way())));
        let visitor = door.arrival_of("1").await;
        let late = echo.call(SlowAnswer(2, door.way())).deadline(Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(late, CallError::Timeout { .. }), "{late:?}");
        // A node hears of it over the connection, and the door may be faster. A question may overtake it by one round of
        // writing, but not three of them, each asked when the one before was answered.
        for _ in 0..3 {
            job.status().await.unwrap();
        }
        visitor.admit();
        assert_eq!(deadline("the answer", slow).await.unwrap().unwrap(), 1);
        // Had the second one been handled, it would be the next at the door.
        let third = tokio::spawn(echo.call(SlowAnswer(3, door.way())));
        door.arrival_of("3").await.admit();
        assert_eq!(deadline("the answer", third).await.unwrap().unwrap(), 3);
        job.stop().await.unwrap();
        let _ = ended(&job).await;
    });
}

job!(CallsNobody {}, |job, flow| {
    flow.register_service("echo", || Echo);
    flow.register_service("other", || Echo);
    let called = flow.from_batch(0..1u64).map_async(1, async |ctx, n| {
        let nobody = ctx.service::<Echo>("nobody")?;
        Ok(nobody.call(Answer(n)).await?)
    });
    called.for_each(drop);
});

#[test]
fn a_call_of_a_service_that_does_not_exist_fails_at_once_and_names_those_that_do() {
    each_environment(async |env| {
        let message = "no service `nobody` in this job, which has `echo`, `other`";
        let job = start(env, CallsNobody {}).await;
        match ended(&job).await {
            Outcome::Failed(FailureCause::Operator { message: said, .. }) => assert_eq!(said, message),
            other => panic!("not failed by the call but {other:?}"),
        }
        let job = idle(env, Echoes {}).await;
        let error = job.service::<Echo>("nobody").call(Answer(1)).await.unwrap_err();
        let expected = CallError::NoSuchService { service: "nobody".to_owned(), existing: vec!["echo".to_owned()] };
        assert_eq!((&error, error.fate()), (&expected, Fate::Refused));
        job.stop().await.unwrap();
        let _ = ended(&job).await;
    });
}

/// Handles [`Increment`] and [`Answer`], but lists one of them only.
struct Choosy;

impl Actor for Choosy {
    type Context = Context<Self>;
}

impl Service for Choosy {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Answer>("answer");
    }
}

impl Handler<Answer> for Choosy {
    type Result = u64;

    fn handle(&mut self, Answer(number): Answer, _: &mut Self::Context) -> u64 {
        number
    }
}

impl Handler<Increment> for Choosy {
    type Result = u64;

    fn handle(&mut self, _: Increment, _: &mut Self::Context) -> u64 {
        0
    }
}

job!(HasChoosy {}, |job, flow| {
    flow.register_service("choosy", || Choosy);
});

#[test]
fn only_listed_messages_of_the_right_service_can_be_sent() {
    each_environment(async |env| {
        let job = idle(env, HasChoosy {}).await;
        let choosy: ServiceRef<Choosy> = job.service("choosy");
        assert_eq!(choosy.call(Answer(1)).await.unwrap(), 1);
        let error = choosy.call(Increment).await.unwrap_err();
        let CallError::NotAccepted { service, message, accepted } = &error else { panic!("{error:?}") };
        assert_eq!((service.as_str(), accepted.as_slice()), ("choosy", &["answer".to_owned()][..]));
        assert!(message.ends_with("Increment"), "{message}");
        assert_eq!(choosy.tell(Increment).await.unwrap_err(), error);

        let error = job.service::<Echo>("choosy").call(Answer(1)).await.unwrap_err();
        let CallError::WrongService { service, asked, registered } = &error else { panic!("{error:?}") };
        assert_eq!(service, "choosy");
        assert!(asked.ends_with("Echo") && registered.ends_with("Choosy"), "{error}");
        job.stop().await.unwrap();
        let _ = ended(&job).await;
    });
}

job!(ManyCalls { items: u64 }, |job, flow| {
    flow.register_service("echo", || Echo);
    let called = flow.from_batch(0..job.items).rebalance(2).map_async(64, async |ctx, n: u64| {
        let answer = ctx.service::<Echo>("echo")?.call(Answer(n * 2)).await?;
        Ok((n, answer))
    });
    called.collect("answers");
});

#[test]
fn a_thousand_concurrent_calls_from_outside_and_from_tasks_each_get_their_own_answer() {
    each_environment(async |env| {
        let job = deadline("submit", env.submit(ManyCalls { items: 1000 })).await.unwrap();
        let echo: ServiceRef<Echo> = job.service("echo");
        let calls = (0..1000).map(|n| {
            let call = echo.call(Answer(n * 3));
            async move { (n, call.await.unwrap()) }
        });
        for (n, answer) in deadline("the answers", join_all(calls)).await {
            assert_eq!(answer, n * 3);
        }
        let answers: Vec<(u64, u64)> = read(&job, "answers").await;
        assert_eq!(sorted(answers), (0..1000).map(|n| (n, n * 2)).collect::<Vec<_>>());
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(job.status().await.unwrap().services[0].handled, 2000);
    });
}

/// Asks other services, and itself.
struct Asker(ServiceContext);

/// Asks the service of that name for the number.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u64, String>")]
struct AskFor(String, u64);

impl Actor for Asker {
    type Context = Context<Self>;
}

impl Service for Asker {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<AskFor>("ask-for").accept::<Answer>("answer");
    }
}

impl Handler<Answer> for Asker {
    type Result = u64;

    fn handle(&mut self, Answer(number): Answer, _: &mut Self::Context) -> u64 {
        number
    }
}

impl Handler<AskFor> for Asker {
    type Result = ResponseFuture<Result<u64, String>>;

    fn handle(&mut self, AskFor(name, number): AskFor, _: &mut Self::Context) -> Self::Result {
        let context = self.0.clone();
        Box::pin(async move {
            let answer = if name == context.name() {
                context.service::<Self>(&name).map_err(|error| error.to_string())?.call(Answer(number)).await
            } else {
                context.service::<Echo>(&name).map_err(|error| error.to_string())?.call(Answer(number)).await
            };
            answer.map_err(|error| error.to_string())
        })
    }
}

job!(Asking {}, |job, flow| {
    flow.register_service("echo", || Echo);
    flow.register_service_with("asker", |context| Asker(context.clone()));
});

#[test]
fn a_service_can_call_another_one_and_itself() {
    each_environment(async |env| {
        let job = idle(env, Asking {}).await;
        let asker: ServiceRef<Asker> = job.service("asker");
        let ask = |name: &str, number| asker.call(AskFor(name.to_owned(), number));
        assert_eq!(ask("echo", 1).await.unwrap(), Ok(1));
        assert_eq!(ask("asker", 2).await.unwrap(), Ok(2));
        let nobody = ask("nobody", 3).await.unwrap().unwrap_err();
        assert_eq!(nobody, "no service `nobody` in this job, which has `echo`, `asker`");
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

job!(Twins {}, |job, flow| {
    flow.register_service("twin", || Echo);
    flow.register_service("twin", || Choosy);
});

#[test]
fn a_service_name_that_is_registered_twice_is_refused() {
    each_environment(async |env| {
        let refusal = refusal(env, Twins {}).await;
        assert_eq!(refusal, BuildRefusal::DuplicateService { service: "twin".to_owned() });
        assert_eq!(refusal.to_string(), "service `twin` is registered twice");
    });
}

#[test]
fn a_reference_that_is_dropped_leaves_what_it_told_on_its_way() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = idle(env, Idle { pen: journal.pen() }).await;
        for round in 0..50 {
            // One reference for each round, gone as soon as its messages are accepted; a call of another one follows.
            let counter: ServiceRef<Counter> = job.service("counter");
            for _ in 0..20 {
                counter.tell(Increment).await.unwrap();
            }
            drop(counter);
            let counter: ServiceRef<Counter> = job.service("counter");
            assert_eq!(deadline("the total", counter.call(Total)).await.unwrap(), (round + 1) * 20);
        }
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn tells_are_handled_in_order_and_wait_for_room() {
    let limits = Limits { service_queue: 2, ..Limits::default() };
    each_place_with(&limits, async |place, env| {
        let job = idle(env, Echoes {}).await;
        let echo: ServiceRef<Echo> = job.service("echo");
        let door = Door::new().await;
        echo.tell(SlowAnswer(0, door.way())).await.unwrap();
        let first = door.arrival_of("0").await;
        // The service is busy; the queue takes what it has room for.
        let mut tells: Vec<_> = (1..10).map(|n| Box::pin(echo.tell(SlowAnswer(n, door.way())))).collect();
        let accepted: Vec<bool> = tells.iter_mut().map(|tell| tell.as_mut().now_or_never().is_some()).collect();
        let at_once = accepted.iter().filter(|accepted| **accepted).count();
        // Over a connection there is room for more on the way.
        assert!(at_once <= 2 || place != Place::Local, "{at_once} messages were accepted where 2 have room");
        assert_eq!(accepted.iter().position(|accepted| !accepted).unwrap_or(9), at_once, "{accepted:?}");
        first.admit();
        let rest = join_all(tells.into_iter().skip(at_once));
        let admitted = async {
            for n in 1..10 {
                door.arrival_of(&n.to_string()).await.admit();
            }
        };
        let (told, ()) = deadline("the tells", futures::future::join(rest, admitted)).await;
        assert!(told.iter().all(Result::is_ok), "{told:?}");
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_decoded_reference_is_unbound_until_it_is_bound_to_an_environment() {
    each_environment(async |env| {
        let job = idle(env, Echoes {}).await;
        let text = serde_json::to_string(&job.service::<Echo>("echo")).unwrap();
        let decoded: ServiceRef<Echo> = serde_json::from_str(&text).unwrap();
        assert_eq!((decoded.job(), decoded.name()), (job.id(), "echo"));
        let error = decoded.call(Answer(1)).await.unwrap_err();
        assert_eq!(error, CallError::Unbound { job: job.id(), service: "echo".to_owned() });
        assert_eq!(error.fate(), Fate::NotSent);
        assert_eq!(decoded.bind(env).call(Answer(1)).await.unwrap(), 1);

        // Binding promises nothing about the job.
        let unknown = JobId::random();
        let text = serde_json::to_string(&(unknown, "echo")).unwrap();
        let nowhere: ServiceRef<Echo> = serde_json::from_str(&text).unwrap();
        let error = nowhere.bind(env).call(Answer(1)).await.unwrap_err();
        assert_eq!((&error, error.fate()), (&CallError::NoSuchJob { job: unknown }, Fate::NotSent));
        job.stop().await.unwrap();
        let _ = ended(&job).await;
    });
}

#[test]
fn calls_of_a_job_that_has_ended_say_so() {
    each_environment(async |env| {
        let job = idle(env, Echoes {}).await;
        let echo: ServiceRef<Echo> = job.service("echo");
        assert_eq!(echo.call(Answer(1)).await.unwrap(), 1);
        job.stop().await.unwrap();
        let _ = ended(&job).await;
        for echo in [echo, job.service("echo")] {
            let error = echo.call(Answer(2)).await.unwrap_err();
            assert_eq!((&error, error.fate()), (&CallError::JobEnded { job: job.id() }, Fate::NotSent));
            assert_eq!(echo.tell(Answer(2)).await.unwrap_err(), error);
        }
    });
}

job!(Answering { door: Doorway }, |job, flow| {
    flow.register_service("echo", || Echo);
    let door = job.door.clone();
    flow.from_batch(0..1u64).for_each_async(1, async move |_, n| {
        door.pass(n).await;
        Ok(())
    });
});

#[test]
fn what_a_service_had_accepted_is_answered_before_it_stops_and_later_calls_are_refused() {
    each_environment(async |env| {
        let (tasks, service) = (Door::new().await, Door::new().await);
        let job = start(env, Answering { door: tasks.way() }).await;
        let echo: ServiceRef<Echo> = job.service("echo");
        let late = tokio::spawn(echo.call(LateAnswer(1, service.way())));
        let first = service.arrival_of("1").await;
        let slow = tokio::spawn(echo.call(SlowAnswer(2, service.way())));
        let second = service.arrival_of("2").await;
        let queued = tokio::spawn(echo.call(Answer(3)));
        while job.status().await.unwrap().services[0].queued == 0 {
            tokio::task::yield_now().await;
        }
        tasks.arrival().await.admit();
        crate::support::reached(&job, JobState::StoppingServices).await;
        let refused = echo.call(Answer(4)).await.unwrap_err();
        assert_eq!(refused, CallError::Stopping { service: "echo".to_owned() });
        assert_eq!(refused.fate(), Fate::NotSent);
        let explanation = job.explain().await.unwrap();
        assert!(explanation.waits[0].starts_with("service `echo` is stopping"), "{explanation}");

        first.admit();
        second.admit();
        assert_eq!(deadline("the answer", late).await.unwrap().unwrap(), 1);
        assert_eq!(deadline("the answer", slow).await.unwrap().unwrap(), 2);
        assert_eq!(deadline("the answer", queued).await.unwrap().unwrap(), 3);
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

type Asked = BoxFuture<'static, Result<JobStatus, QueryError>>;

/// Looks at a job again as soon as it is answered, on the very thread that answers, and calls its service when it reads that
/// services are being stopped: nobody can be quicker.
struct Hasty {
    job: JobHandle,
    echo: ServiceRef<Echo>,
    asked: Mutex<Pin<Box<Unconstrained<Asked>>>>,
    /// Answers that have come and were not looked at.
    wakes: AtomicUsize,
    /// What the call came to at once; it is over then.
    called: mpsc::Sender<Option<Result<u64, CallError>>>,
}

impl Hasty {
    fn begin(job: &JobHandle, echo: &ServiceRef<Echo>) -> mpsc::Receiver<Option<Result<u64, CallError>>> {
        let (called, outcome) = mpsc::channel();
        let asked = Mutex::new(Box::pin(unconstrained(job.status().boxed())));
        let (job, echo, wakes) = (job.clone(), echo.clone(), AtomicUsize::new(0));
        Waker::from(Arc::new(Self { job, echo, asked, wakes, called })).wake();
        outcome
    }

    fn look(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut asked = self.asked.lock().unwrap();
        while let Poll::Ready(status) = asked.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            if status.unwrap().state == JobState::StoppingServices {
                self.called.send(self.echo.call(Answer(4)).now_or_never()).unwrap();
                **asked = unconstrained(pending().boxed());
            } else {
                **asked = unconstrained(self.job.status().boxed());
            }
        }
    }
}

impl Wake for Hasty {
    fn wake(self: Arc<Self>) {
        if self.wakes.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        let mut wakes = 1;
        while wakes > 0 {
            self.look();
            wakes = self.wakes.fetch_sub(wakes, Ordering::SeqCst) - wakes;
        }
    }
}

#[test]
fn who_reads_that_services_are_stopped_finds_them_closed() {
    block_on(async {
        let env = LocalEnvironment::new("test");
        for _ in 0..100 {
            let (tasks, service) = (Door::new().await, Door::new().await);
            let job = start(&env, Answering { door: tasks.way() }).await;
            let echo: ServiceRef<Echo> = job.service("echo");
            // It is found by then, and the call in question goes straight to it.
            assert_eq!(echo.call(Answer(0)).await, Ok(0));
            let late = tokio::spawn(echo.call(LateAnswer(1, service.way())));
            let first = service.arrival_of("1").await;
            let visitor = tasks.arrival().await;
            let called = Hasty::begin(&job, &echo);
            visitor.admit();
            let called = on_a_thread("the call", move || called.recv().unwrap());
            assert_eq!(called, Some(Err(CallError::Stopping { service: "echo".to_owned() })));
            first.admit();
            assert_eq!(deadline("the answer", late).await.unwrap().unwrap(), 1);
            assert_eq!(ended(&job).await, Outcome::Completed);
        }
        env.close().await;
    });
}

job!(Idle { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
});

#[test]
fn a_job_of_services_only_completes_at_once_with_autostop_and_idles_without() {
    each_environment(async |env| {
        let journal = Journal::new();
        completed(env, Idle { pen: journal.pen() }).await;
        assert_eq!(journal.lines(), ["counter started", "counter stopped after 0"]);

        let job = idle(env, Idle { pen: journal.pen() }).await;
        let status = job.status().await.unwrap();
        assert_eq!((status.task_count, status.service_count, status.outcome), (0, 1, None));
        let counter: ServiceRef<Counter> = job.service("counter");
        assert_eq!(counter.call(Increment).await.unwrap(), 1);
        assert_eq!(counter.call(Total).await.unwrap(), 1);
        assert_eq!(job.wait_timeout(Duration::ZERO).await.unwrap(), None);
        let explanation = job.explain().await.unwrap();
        let expected = "idle\n  idle: all tasks finished; service `counter` stays callable until `stop`";
        assert_eq!(explanation.to_string(), expected);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(journal.lines().last().unwrap(), "counter stopped after 1");
    });
}

registered![CountItems, Echoes, CallsNobody, HasChoosy, ManyCalls, Asking, Twins, Answering, Idle];
