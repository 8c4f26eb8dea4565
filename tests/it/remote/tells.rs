//! Messages that are told one after the other, which a node hands in to their service together.

use actix::{Actor, Context, Handler, Message};
use proscenium::{CallError, Environment, JobRegistry, Limits, MessageTable, Service, ServiceRef};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{connect, node};
use crate::support::{block_on, deadline, job};

/// Writes down what it is told.
#[derive(Debug, Default)]
struct Ledger(Vec<u64>);

/// A number that cannot be read if it is this one.
#[derive(Debug, Clone, Copy, Serialize)]
struct Entry(u64);

const UNREADABLE: u64 = 1_111;

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            UNREADABLE => Err(D::Error::custom("it cannot be read")),
            number => Ok(Self(number)),
        }
    }
}

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "()")]
struct Note(Entry);

/// Of another kind, so that it goes over a route of its own.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "()")]
struct Long(Entry, Vec<u8>);

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "u64")]
struct Last;

#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Vec<u64>")]
struct All;

impl Actor for Ledger {
    type Context = Context<Self>;
}

impl Service for Ledger {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Note>("note").accept::<Long>("long").accept::<Last>("last").accept::<All>("all");
    }
}

impl Handler<Note> for Ledger {
    type Result = ();

    fn handle(&mut self, Note(Entry(number)): Note, _: &mut Self::Context) {
        self.0.push(number);
    }
}

impl Handler<Long> for Ledger {
    type Result = ();

    fn handle(&mut self, Long(Entry(number), bytes): Long, _: &mut Self::Context) {
        assert!(bytes.iter().all(|&byte| u64::from(byte) == number % 256), "these are the bytes of {number}");
        self.0.push(number);
    }
}

impl Handler<Last> for Ledger {
    type Result = u64;

    fn handle(&mut self, _: Last, _: &mut Self::Context) -> u64 {
        self.0.last().copied().unwrap_or_default()
    }
}

impl Handler<All> for Ledger {
    type Result = Vec<u64>;

    fn handle(&mut self, _: All, _: &mut Self::Context) -> Vec<u64> {
        std::mem::take(&mut self.0)
    }
}

job!(Keeps {}, |_job, flow| {
    flow.register_service("ledger", Ledger::default);
    flow.from_channel::<u64>("nothing").collect("nothing");
});

pub fn jobs() -> JobRegistry {
    proscenium::jobs![Keeps]
}

/// Tells `number`, by one of the two ways. Of a message before it that could not be read this one hears, and is told again,
/// as it was not sent. How many such messages it heard of.
async fn tell(ledger: &ServiceRef<Ledger>, number: u64) -> u64 {
    let mut lost_before = 0;
    loop {
        let told = match number % 97 {
            0 => {
                let bytes = vec![(number % 256) as u8; (number % 7) as usize * 5_000];
                deadline("the tell", ledger.tell(Long(Entry(number), bytes))).await
            }
            _ => deadline("the tell", ledger.tell(Note(Entry(number)))).await,
        };
        match told {
            Ok(()) => return lost_before,
            Err(CallError::EarlierNotCarried { service, message, lost, why }) => {
                assert_eq!((&*service, &*message), ("ledger", "note"));
                assert!(why.contains("it cannot be read"), "{why}");
                lost_before += lost;
            }
            Err(error) => panic!("{number}: {error}"),
        }
    }
}

#[test]
fn told_messages_keep_their_order_among_kinds_calls_and_misfits_however_short_the_queue_is() {
    for service_queue in [1, 7, 4096] {
        let (node, address, key) = node(Limits { service_queue, ..Limits::default() });
        block_on(async {
            let env = connect(address, &key);
            let job = env.submit(Keeps {}).await.unwrap();
            let ledger: ServiceRef<Ledger> = job.service("ledger");
            let mut lost = 0;
            for number in 1..=3_000 {
                lost += tell(&ledger, number).await;
                if number % 501 == 0 {
                    let last = deadline("the call", ledger.call(Last)).await.unwrap();
                    assert_eq!(last, number, "a call came before what was told before it");
                }
            }
            let expected: Vec<u64> = (1..=3_000).filter(|&number| number != UNREADABLE).collect();
            assert_eq!(deadline("all", ledger.call(All)).await.unwrap(), expected);
            assert_eq!(lost, 1, "whoever told the message that could not be read hears of it once");
            job.cancel().await.unwrap();
            env.close().await;
        });
        drop(node);
    }
}

#[test]
fn what_was_told_right_before_an_environment_is_closed_is_handled() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let (env, other) = (connect(address, &key), connect(address, &key));
        let job = env.submit(Keeps {}).await.unwrap();
        let ledger: ServiceRef<Ledger> = job.service("ledger");
        // The way is open after the first, so that the others and the farewell are read together.
        for number in 1..=100 {
            deadline("the tell", ledger.tell(Note(Entry(number)))).await.unwrap();
        }
        env.close().await;
        let again = other.job(job.id()).await.unwrap();
        let ledger: ServiceRef<Ledger> = again.service("ledger");
        let all = deadline("all", ledger.call(All)).await.unwrap();
        assert_eq!(all, (1..=100).collect::<Vec<u64>>());
        again.cancel().await.unwrap();
        other.close().await;
    });
    drop(node);
}
