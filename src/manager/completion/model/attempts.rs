//! Jobs that may begin anew.

use super::*;

const BEGINS_ANEW: (&str, Condition) = ("completes in its second attempt", |job, world| {
    world.machine.attempt() == Attempt(2) && seen_outcome::<COMPLETED>(job, world)
});
const WEARS_OUT: (&str, Condition) = ("fails in its last attempt", |job, world| {
    world.machine.attempt() > Attempt(1) && seen_outcome::<FAILED>(job, world)
});
const CANCELS_BETWEEN: (&str, Condition) =
    ("is cancelled between two attempts", |job, world| world.deploying && seen_outcome::<CANCELLED>(job, world));

#[test]
fn the_rules_hold_for_attempts_that_fail_under_every_request() {
    let budget = Budget { stop: 1, cancel: 1, task_failures: 2, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, BEGINS_ANEW, WEARS_OUT, CANCELS_BETWEEN];
    let states = Job::new(2, &[(0, 1)], 1).autostop().restarting(1).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_attempts_whose_tasks_and_services_hang() {
    let budget = Budget { cancel: 1, hangs: 1, task_failures: 1, service_failures: 1, ..Budget::default() };
    let sights = [ENDS_CANCELLED, BEGINS_ANEW, ABANDONS_A_TASK, ABANDONS_A_SERVICE];
    let states = Job::new(2, &[(0, 1)], 1).autostop().restarting(1).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_attempts_that_end_by_a_service() {
    let budget = Budget { stop: 1, service_failures: 3, hook_panics: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, BEGINS_ANEW, RESTARTS, ENDS_FAILED];
    let states = Job::new(1, &[], 2).restarting(1).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_attempts_that_lose_workers_or_cannot_be_deployed() {
    let budget = Budget { stop: 1, cancel: 1, losses: 2, undeployed: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, BEGINS_ANEW, WEARS_OUT, LOSES_A_TASK, CANCELS_BETWEEN];
    let states = Job::new(2, &[(0, 1)], 1).autostop().restarting(2).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn a_job_that_is_paused_when_it_begins_anew_is_paused_again() {
    let budget = Budget { cancel: 1, pause: 1, resume: 1, task_failures: 1, ..Budget::default() };
    let paused: (&str, Condition) = ("is paused in its second attempt", |_, world| {
        world.machine.attempt() == Attempt(2) && world.machine.state() == JobState::Paused
    });
    let sights = [ENDS_COMPLETED, ENDS_CANCELLED, BEGINS_ANEW, PAUSES, paused];
    let states = Job::new(2, &[(0, 1)], 0).autostop().restarting(1).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_loops_and_pipelines_that_begin_anew() {
    let budget = Budget { stop: 1, task_failures: 1, trips: 1, ..Budget::default() };
    let states =
        bare_loop(budget).restarting(1).seeing(&[ENDS_COMPLETED, ENDS_STOPPED, BEGINS_ANEW, LOOP_TOLD]).check();
    assert!(states > 1_000, "only {states} states");
    let budget = Budget { stop: 1, task_failures: 2, hangs: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_FAILED, BEGINS_ANEW];
    let states = Job::new(2, &[], 1).pipeline(&[1], 0).restarting(1).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}
