//! Types whose `Serialize` or `Deserialize` refuses or panics: user code that runs where bytes are made and read.

use actix::{Actor, Context, Handler, Message};
use proscenium::{
    ActorState, CallError, Environment, FailureCause, Fate, InputError, JobRegistry, JobStatus, Limits, MessageTable,
    Output, OutputError, Service, ServiceRef, SubmitError,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use super::{connect, node};
use crate::support::{block_on, deadline, each_environment, each_environment_with, job, reached, read, until};

/// A number that is not welcome everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moody(u64);

/// Cannot be written.
const UNWRITABLE: u64 = 1;
/// Cannot be read.
const UNREADABLE: u64 = 2;
/// Panics when it is read.
const PANICS: u64 = 3;
/// Panics when it is written.
const PANICS_IN_WRITING: u64 = 4;

impl Serialize for Moody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            UNWRITABLE => Err(S::Error::custom("it does not want to be written")),
            PANICS_IN_WRITING => panic!("planned: it cannot be written"),
            number => serializer.serialize_u64(number),
        }
    }
}

impl<'de> Deserialize<'de> for Moody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            UNREADABLE => Err(D::Error::custom("it does not want to be read")),
            PANICS => panic!("planned: it cannot be read"),
            number => Ok(Self(number)),
        }
    }
}

/// Answers with the number that it is to answer with.
#[derive(Debug)]
struct Medium;

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Moody")]
struct Take {
    message: Moody,
    reply: u64,
}

/// To be answered with so many bytes.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Vec<u8>")]
struct Inflate(usize);

impl Handler<Inflate> for Medium {
    type Result = Vec<u8>;

    fn handle(&mut self, Inflate(bytes): Inflate, _: &mut Self::Context) -> Vec<u8> {
        vec![7; bytes]
    }
}

impl Actor for Medium {
    type Context = Context<Self>;
}

impl Service for Medium {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Take>("take");
        table.accept::<Inflate>("inflate");
    }
}

impl Handler<Take> for Medium {
    type Result = actix::MessageResult<Take>;

    fn handle(&mut self, Take { reply, .. }: Take, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(Moody(reply))
    }
}

job!(Spoilt { by: Moody }, |job, flow| {
    let _ = job.by;
    flow.register_service("medium", || Medium);
    flow.from_channel::<Moody>("moods").map(|mood| mood.0).collect("numbers");
});

job!(Speaks { before: u64, bad: u64 }, |job, flow| {
    let (before, bad) = (job.before, job.bad);
    let mood = move |n| Moody(if n == before { bad } else { n + 10 });
    flow.from_batch(0..before + 2).map(mood).collect("collected");
    flow.from_batch(0..before + 2).map(mood).stream_out("streamed");
});

job!(WaitsEncoded {}, |job, flow| {
    let partners = flow.from_channel::<u64>("partners");
    let moods = flow.from_batch(0..=100_000u64).map(|n| Moody(if n == 50_000 { PANICS } else { n + 10 }));
    moods.zip(partners).uid("pairs").map(|(mood, _)| mood.0).collect("out");
});

pub fn jobs() -> JobRegistry {
    proscenium::jobs![Spoilt, Speaks, WaitsEncoded]
}

#[test]
fn parameters_that_are_not_read_refuse_the_job_and_leave_the_node_as_it_was() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        for (by, what) in [
            (UNWRITABLE, "does not want to be written"),
            (UNREADABLE, "does not want to be read"),
            (PANICS, "planned: it cannot be read"),
            (PANICS_IN_WRITING, "planned: it cannot be written"),
        ] {
            let error = deadline("the refusal", env.submit(Spoilt { by: Moody(by) })).await.unwrap_err();
            let SubmitError::Parameters { job, message } = &error else { panic!("{error:?}") };
            assert!(job == "Spoilt" && message.contains(what), "{error}");
        }
        assert!(env.jobs().await.unwrap().is_empty());
        env.close().await;
    });
    drop(node);
}

#[test]
fn a_message_or_reply_that_is_not_carried_is_an_error_of_that_call_only() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        let job = env.submit(Spoilt { by: Moody(0) }).await.unwrap();
        let medium: ServiceRef<Medium> = job.service("medium");
        let call = |message, reply| medium.call(Take { message: Moody(message), reply });
        assert_eq!(call(0, 7).await.unwrap(), Moody(7));
        for (message, reply, fate) in [
            (UNWRITABLE, 0, Fate::Refused),
            (UNREADABLE, 0, Fate::Refused),
            (PANICS, 0, Fate::Refused),
            (PANICS_IN_WRITING, 0, Fate::Refused),
            (0, UNWRITABLE, Fate::Unknown),
            (0, UNREADABLE, Fate::Unknown),
            (0, PANICS, Fate::Unknown),
            (0, PANICS_IN_WRITING, Fate::Unknown),
        ] {
            let error = deadline("the error", call(message, reply)).await.unwrap_err();
            assert_eq!(error.fate(), fate, "{error}");
            let carried = matches!(error, CallError::NotCarried { .. } | CallError::ReplyNotCarried { .. });
            assert!(carried, "{error:?}");
            assert!(error.to_string().contains("planned: ") || !error.to_string().contains("panicked"), "{error}");
            assert_eq!(deadline("the next call", call(0, 8)).await.unwrap(), Moody(8));
        }
        assert_eq!(job.status().await.unwrap().restarts, 0, "the service knows nothing of it");
        job.cancel().await.unwrap();
        env.close().await;
    });
    drop(node);
}

/// Of how many earlier messages this one, which can be read, hears before it is taken, with what was wrong with the first.
async fn told(medium: &ServiceRef<Medium>, message: u64) -> (u64, Option<String>) {
    let (mut earlier, mut first) = (0, None);
    loop {
        match deadline("the tell", medium.tell(Take { message: Moody(message), reply: 0 })).await {
            Ok(()) => return (earlier, first),
            Err(error) => {
                assert_eq!(error.fate(), Fate::NotSent, "the message at hand is good, and may be told again: {error}");
                let CallError::EarlierNotCarried { service, message, lost, why } = error else { panic!("{error:?}") };
                assert_eq!((&*service, &*message), ("medium", "take"));
                earlier += lost;
                first.get_or_insert(why);
            }
        }
    }
}

#[test]
fn a_told_message_that_the_node_cannot_read_is_told_by_the_next_one_as_what_befell_an_earlier_one() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        let job = env.submit(Spoilt { by: Moody(0) }).await.unwrap();
        let medium: ServiceRef<Medium> = job.service("medium");
        // A call comes behind what was told, so by its answer the node has said what it could not read.
        let settled = async || assert_eq!(medium.call(Take { message: Moody(0), reply: 9 }).await.unwrap(), Moody(9));
        assert_eq!(told(&medium, PANICS).await, (0, None));
        settled().await;
        // Another reference, and another kind of message, go another way.
        assert_eq!(told(&job.service("medium"), 0).await, (0, None));
        deadline("another kind", medium.tell(Inflate(1))).await.unwrap();
        let error = medium.clone().tell(Take { message: Moody(0), reply: 0 }).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "this message was not sent; of the messages `take` told to service `medium` before it, 1 did not reach it: \
             the type's `Deserialize` panicked: planned: it cannot be read"
        );
        assert_eq!(error.fate(), Fate::NotSent, "{error}");
        assert_eq!(told(&medium, 0).await, (0, None), "it is heard of once");

        // None is passed over, however many cannot be read before the next is told.
        let (mut lost, mut first) = (0, None);
        for bad in [UNREADABLE, PANICS, PANICS] {
            let (earlier, why) = told(&medium, bad).await;
            lost += earlier;
            first = first.or(why);
        }
        settled().await;
        let (earlier, why) = told(&medium, 0).await;
        assert_eq!(lost + earlier, 3);
        assert!(first.or(why).is_some_and(|why| why.contains("does not want to be read")), "that of the first");
        assert_eq!(job.status().await.unwrap().restarts, 0, "the service knows nothing of it");
        job.cancel().await.unwrap();
        env.close().await;
    });
    drop(node);
}

#[test]
fn a_reply_beyond_the_limit_names_service_message_and_limit() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        let job = env.submit(Spoilt { by: Moody(0) }).await.unwrap();
        let medium: ServiceRef<Medium> = job.service("medium");
        let error = deadline("the error", medium.call(Inflate(17 << 20))).await.unwrap_err();
        let CallError::ReplyNotCarried { service, message, why } = &error else { panic!("{error:?}") };
        assert_eq!((&**service, &**message), ("medium", "inflate"), "{error}");
        assert!(why.contains("and may take 16777216"), "{why}");
        assert_eq!(deadline("the next reply", medium.call(Inflate(3))).await, Ok(vec![7; 3]));
        job.cancel().await.unwrap();
        env.close().await;
    });
    drop(node);
}

#[test]
fn an_item_that_is_not_carried_comes_back_and_later_ones_are_taken() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        let job = env.submit(Spoilt { by: Moody(0) }).await.unwrap();
        let moods = job.input::<Moody>("moods");
        moods.send(Moody(10)).await.unwrap();
        for bad in [UNWRITABLE, UNREADABLE, PANICS, PANICS_IN_WRITING] {
            let error = deadline("the refusal", moods.send(Moody(bad))).await.unwrap_err();
            assert!(matches!(error.error(), InputError::NotCarried { .. }), "{error:?}");
            assert_eq!(error.into_item(), Moody(bad));
            deadline("the next item", moods.send(Moody(10 + bad))).await.unwrap();
        }
        for bad in [PANICS, PANICS_IN_WRITING] {
            let error = moods.send_all([20, bad, 21].map(Moody)).await.unwrap_err();
            let text = error.error().to_string();
            assert!(text.contains("item 2 of 3") && text.contains("panicked: planned: it cannot be"), "{text}");
        }
        let error = moods.send_all([20, UNREADABLE, 21].map(Moody)).await.unwrap_err();
        assert_eq!(error.into_item(), [20, UNREADABLE, 21].map(Moody), "a run is taken as a whole or not at all");
        deadline("the last item", moods.send(Moody(22))).await.unwrap();
        moods.finish().await.unwrap();
        reached(&job, proscenium::JobState::Idle).await;
        assert_eq!(read::<u64>(&job, "numbers").await, [10, 11, 12, 13, 14, 22]);
        job.stop().await.unwrap();
        env.close().await;
    });
    drop(node);
}

#[test]
fn types_that_differ_by_their_moods_only_run_in_every_environment() {
    each_environment(async |env| {
        let job = idle_after_finish(env).await;
        assert_eq!(read::<u64>(&job, "numbers").await, [5]);
        job.stop().await.unwrap();
        let _ = crate::support::ended(&job).await;
    });
}

async fn idle_after_finish(env: &dyn Environment) -> proscenium::JobHandle {
    let job = deadline("submit", env.submit(Spoilt { by: Moody(0) })).await.unwrap();
    let moods = job.input::<Moody>("moods");
    moods.send(Moody(5)).await.unwrap();
    moods.finish().await.unwrap();
    reached(&job, proscenium::JobState::Idle).await;
    job
}

/// What a reader of an output is told of the item at `position` that panics when it is read.
fn unreadable(output: &str, position: u64) -> OutputError {
    let message = "the type's `Deserialize` panicked: planned: it cannot be read".to_owned();
    OutputError::Decode { output: output.to_owned(), position, message }
}

#[test]
fn an_item_of_an_output_whose_reading_panics_is_an_error_of_that_item_however_it_is_read() {
    // With so little memory the second output is read back from disk.
    let limits = Limits { output_memory_bytes: 1000, ..Limits::default() };
    for before in [1, 200_000] {
        each_environment_with(&limits, async |env| {
            let job = env.submit(Speaks { before, bad: PANICS }).parallelism(1).autostop(true);
            let job = deadline("submit", job).await.unwrap();
            let mut streamed: Output<Moody> = job.output("streamed");
            for n in 0..before {
                assert_eq!(deadline("an item", streamed.next()).await, Ok(Some(Moody(n + 10))));
            }
            for _ in 0..2 {
                let error = deadline("the error", streamed.next()).await.unwrap_err();
                assert_eq!(error, unreadable("streamed", before + 1));
            }
            // What cannot be read stays: the job ends when everything was taken, here by one who reads numbers.
            drop(streamed);
            let rest = read::<u64>(&job, "streamed").await;
            assert_eq!(rest, [PANICS, before + 11]);

            let whole = deadline("the whole", job.output::<Moody>("collected")).await;
            assert_eq!(whole.unwrap_err(), unreadable("collected", before + 1));
            let mut one_by_one: Output<Moody> = job.output("collected");
            for n in 0..before {
                assert_eq!(deadline("an item", one_by_one.next()).await, Ok(Some(Moody(n + 10))));
            }
            assert_eq!(one_by_one.next().await.unwrap_err(), unreadable("collected", before + 1));
            assert!(crate::support::ended(&job).await.is_completed(), "the job itself has done all it should");
        });
    }
}

#[test]
fn an_item_of_an_output_whose_writing_panics_fails_the_job_and_is_named() {
    each_environment(async |env| {
        let job = env.submit(Speaks { before: 5, bad: PANICS_IN_WRITING }).parallelism(1).autostop(true);
        let job = deadline("submit", job).await.unwrap();
        let outcome = crate::support::ended(&job).await;
        let Some(FailureCause::OperatorPanicked { position, message, .. }) = outcome.failure() else {
            panic!("{outcome}")
        };
        assert_eq!((*position, &**message), (6, "planned: it cannot be written"));
    });
}

#[test]
fn an_item_that_waits_encoded_for_its_partner_and_panics_fails_the_job_by_a_typed_error() {
    each_environment(async |env| {
        let job = deadline("submit", env.submit(WaitsEncoded {}).parallelism(1).autostop(true)).await.unwrap();
        let partners = job.input::<u64>("partners");
        // By then all but a few batches wait.
        let gone = |status: &JobStatus| status.tasks.iter().any(|task| task.state == ActorState::Finished);
        until(&job, "the source's end", gone).await;
        // Refused as soon as the job has failed, or not at all, if all are on their way by then.
        let _ = deadline("the partners", partners.send_all(0..100_000)).await;
        let outcome = crate::support::ended(&job).await;
        let Some(FailureCause::Operator { operator, message, .. }) = outcome.failure() else { panic!("{outcome}") };
        assert_eq!(operator, "pairs");
        assert!(message.contains("an item that waited cannot be decoded"), "{message}");
        assert!(message.contains("`Deserialize` panicked: planned: it cannot be read"), "{message}");
    });
}
