use std::{cell::RefCell, rc::Rc, sync::Arc};

use actix::Message;
use serde::Deserialize;

use super::*;
use crate::{
    flow::{
        Flow,
        graph::{Blueprint, BuildOptions},
    },
    job::ErrorPolicy,
    service::NoReply,
};

/// The groups of a flow in which an operator has three instances unless it says otherwise.
fn group_of(build: impl FnOnce(&mut Flow)) -> Vec<u32> {
    let options =
        BuildOptions { parallelism: 3, error_policy: ErrorPolicy::Fail, limits: Arc::default(), splits: None };
    let blueprint = Rc::new(RefCell::new(Blueprint::new(options)));
    build(&mut Flow::on(&blueprint));
    let blueprint = Rc::into_inner(blueprint).expect("the flow is dropped").into_inner();
    blueprint.finish().unwrap_or_else(|refusal| panic!("{refusal}")).colocation.group_of
}

#[test]
fn tasks_are_free_where_items_can_travel() {
    let groups = group_of(|flow| {
        let counts = flow.from_batch(0..9u32).rebalance(2).key_by(|n| *n).count();
        counts.broadcast(2).gather().take(1).collect("out");
    });
    // One source, two instances that are dealt to, three by key, two that get all, one that gathers.
    assert_eq!(groups, (0..9).collect::<Vec<u32>>());
    let groups = group_of(|flow| {
        let (left, right) = (flow.from_batch(0..9u32), flow.from_batch(0..9u32));
        left.key_by(|n| *n).join(right.key_by(|n| *n)).collect("out");
    });
    assert_eq!(groups, (0..5).collect::<Vec<u32>>());
}

#[test]
fn instances_that_are_paired_stay_together_pair_by_pair() {
    let groups = group_of(|flow| {
        let (left, right) = (flow.from_batch(0..9u32).rebalance(2), flow.from_batch(0..9u32).rebalance(2));
        left.zip(right).collect("out");
    });
    // A source and the two instances that it deals to, twice; then the pairs.
    assert_eq!(groups, [0, 1, 2, 3, 1, 2, 1, 2]);
}

#[test]
fn instances_that_are_dealt_to_without_being_encoded_are_all_together() {
    let groups = group_of(|flow| {
        let (one, three) = (flow.from_batch(0..9u32), flow.from_batch(0..9u32).rebalance(3));
        one.union(three).collect("out");
    });
    assert_eq!(groups, [0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_loop_is_together_even_where_its_items_could_travel() {
    let groups = group_of(|flow| {
        let done = flow.from_batch(0..9u32).rebalance(2).iterate("again", |items| {
            let (again, done) = items.rebalance(2).split(|n| *n < 9);
            (again, done)
        });
        done.gather().collect("out");
    });
    assert_eq!(groups, [0, 1, 1, 1, 1, 1, 1, 2]);
}

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "Result<u32, NoReply>")]
struct Ask(u32);

#[test]
fn the_tasks_of_a_pipeline_service_are_together() {
    let groups = group_of(|flow| {
        flow.from_batch(0..9u32).rebalance(2).collect("out");
        flow.pipeline_service("ask", |asked| asked.rebalance(2).map(|Ask(n)| n));
    });
    assert_eq!(groups, [0, 1, 2, 3, 3, 3]);
}
