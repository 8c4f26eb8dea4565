use super::*;
use crate::bridge::{
    frame::{Integrity, Kind, Lane},
    key::Key,
};

fn tally(role: KeyRole) -> Arc<Tally> {
    Tally::new(&Identity { id: Key::generate().id(), role, name: Arc::from("etl") })
}

/// A connection whose client has left so much unread.
fn connection(tally: &Tally, unread: usize) -> Arc<Outbound> {
    let outbound = Outbound::new(tokio::io::sink(), Integrity::Cipher);
    outbound.enqueue(Kind::Answer, Lane::Calls, 1, &[&vec![0; unread]]);
    tally.join(&outbound);
    outbound
}

#[test]
fn the_connections_of_a_key_have_a_number_of_calls_together() {
    let (submitter, admin) = (tally(KeyRole::Submitter), tally(KeyRole::Admin));
    for _ in 0..KEY_CALLS_MAX {
        submitter.begin_call().unwrap();
        admin.begin_call().unwrap();
    }
    let refused = submitter.begin_call().unwrap_err();
    assert_eq!(refused, CallError::TooManyCalls { key: "etl".to_owned(), limit: KEY_CALLS_MAX });
    admin.begin_call().unwrap();
    submitter.end_calls(1);
    submitter.begin_call().unwrap();
}

#[test]
fn beyond_what_a_key_may_leave_unread_each_connection_has_its_share() {
    let tally = tally(KeyRole::Reader);
    let greedy: Vec<_> = (0..3).map(|_| connection(&tally, 20 << 20)).collect();
    assert_eq!(tally.unread_max(greedy[0].backlog()), UNREAD_MAX);
    assert!(tally.keeps_no_reply(greedy[0].backlog(), 1 << 20).is_none());
    assert!(tally.keeps_no_reply(0, 5 << 20).is_some_and(|why| why.contains("key `etl`")));
    let more = connection(&tally, 5 << 20);
    assert_eq!(tally.unread_max(more.backlog()), KEY_UNREAD_SHARE);
    assert_eq!(tally.unread_max(KEY_UNREAD_SHARE), UNREAD_MAX, "one that reads goes on");
    assert!(tally.keeps_no_reply(0, KEY_UNREAD_SHARE).is_none());
    drop(greedy);
    assert_eq!(tally.unread_max(more.backlog()), UNREAD_MAX);
    let admin = self::tally(KeyRole::Admin);
    let many: Vec<_> = (0..3).map(|_| connection(&admin, 30 << 20)).collect();
    assert!(admin.keeps_no_reply(many[0].backlog(), 1 << 20).is_none());
}

#[test]
fn parameters_in_the_making_are_counted_for_all_connections_of_a_key() {
    let tally = tally(KeyRole::Submitter);
    tally.begin_submit(SUBMITS_BYTES_MAX);
    assert!(tally.takes_submits());
    tally.begin_submit(1);
    assert!(!tally.takes_submits());
    tally.end_submit(SUBMITS_BYTES_MAX);
    assert!(tally.takes_submits());
}
