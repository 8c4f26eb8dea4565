//! Types whose `Serialize` or `Deserialize` refuses or panics: user code that runs where bytes are made and read.

use actix::{Actor, Context, Handler, Message};
use proscenium::{
    CallError, Environment, Fate, InputError, JobRegistry, Limits, MessageTable, Service, ServiceRef, SubmitError,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use super::{connect, node};
use crate::support::{block_on, deadline, job, reached, read};

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

impl Actor for Medium {
    type Context = Context<Self>;
}

impl Service for Medium {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Take>("take");
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

pub fn jobs() -> JobRegistry {
    proscenium::jobs![Spoilt]
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
            (0, UNWRITABLE, Fate::Unknown),
            (0, UNREADABLE, Fate::Unknown),
            (0, PANICS, Fate::Unknown),
            (0, PANICS_IN_WRITING, Fate::Unknown),
        ] {
            let error = deadline("the error", call(message, reply)).await.unwrap_err();
            assert_eq!(error.fate(), fate, "{error}");
            let carried = matches!(error, CallError::NotCarried { .. } | CallError::ReplyNotCarried { .. });
            assert!(carried, "{error:?}");
            assert_eq!(deadline("the next call", call(0, 8)).await.unwrap(), Moody(8));
        }
        // What the node refuses of a told message is told to the next one.
        medium.tell(Take { message: Moody(UNREADABLE), reply: 0 }).await.unwrap();
        assert_eq!(call(0, 9).await.unwrap(), Moody(9));
        let error = medium.tell(Take { message: Moody(0), reply: 0 }).await.unwrap_err();
        assert!(matches!(error, CallError::NotCarried { .. }), "{error:?}");
        medium.tell(Take { message: Moody(0), reply: 0 }).await.unwrap();
        assert_eq!(job.status().await.unwrap().restarts, 0, "the service knows nothing of it");
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
        for bad in [UNWRITABLE, UNREADABLE, PANICS] {
            let error = deadline("the refusal", moods.send(Moody(bad))).await.unwrap_err();
            assert!(matches!(error.error(), InputError::NotCarried { .. }), "{error:?}");
            assert_eq!(error.into_item(), Moody(bad));
            deadline("the next item", moods.send(Moody(10 + bad))).await.unwrap();
        }
        let error = moods.send_all([20, UNREADABLE, 21].map(Moody)).await.unwrap_err();
        assert_eq!(error.into_item(), [20, UNREADABLE, 21].map(Moody), "a run is taken as a whole or not at all");
        deadline("the last item", moods.send(Moody(22))).await.unwrap();
        moods.finish().await.unwrap();
        reached(&job, proscenium::JobState::Idle).await;
        assert_eq!(read::<u64>(&job, "numbers").await, [10, 11, 12, 13, 22]);
        job.stop().await.unwrap();
        env.close().await;
    });
    drop(node);
}

#[test]
fn types_that_differ_by_their_moods_only_run_in_every_environment() {
    crate::support::each_environment(async |env| {
        let job = idle_after_finish(env).await;
        assert_eq!(read::<u64>(&job, "numbers").await, [5]);
        job.stop().await.unwrap();
        crate::support::ended(&job).await;
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
