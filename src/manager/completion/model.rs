//! A model check of the completion rules: this very code, in a small world that does anything it may do.
//!
//! The world (see [`world`]) holds tasks, services and clients whose every step is a choice, and reports that arrive
//! after any delay and in any order. Each check explores all of its states. Instead of letting the world also repeat
//! reports, which would multiply the states, [`stale_events_change_nothing`] tries in every state whatever is late,
//! repeated or no longer armed.
//!
//! Always-ends is checked without `eventually`, which stateright does not decide reliably where paths join: each step
//! lowers a rank ([`World::rank`]), so no path is infinite, and no path stops before the end ([`ends_or_is_awaited`]).

mod attempts;
mod world;

use stateright::{Checker, Model, Property};

use self::world::{Action, Budget, End, Fault, First, TaskStage, World};
use super::{Deadline, Event, Setup};
use crate::{
    job::{ActorState, Attempt, FailureCause, Incarnation, JobState, Outcome, Warning},
    protocol::{ServiceEvent, TaskEvent, TaskReport},
};

/// One bounded world to explore.
#[derive(Clone)]
struct Job {
    setup: Setup,
    budget: Budget,
    /// What has to be seen in at least one state, so that the check is not vacuous.
    sights: Vec<(&'static str, Condition)>,
}

type Condition = fn(&Job, &World) -> bool;

impl Model for Job {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::begin(self.setup.clone(), self.budget)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // What can still arrive after the end is tried by `stale_events_change_nothing`.
        if world.machine.state() != JobState::Ended {
            world.own_actions(actions);
            world.client_actions(actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(world.after(action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let faults = |fault: Fault| -> (&'static str, Condition) {
            match fault {
                Fault::Endless => ("every path is finite", |_, world| !world.saw(Fault::Endless)),
                Fault::AfterEnd => ("a job ends once, with its last command", |_, world| !world.saw(Fault::AfterEnd)),
                Fault::SealedTwice => ("outputs are sealed once", |_, world| !world.saw(Fault::SealedTwice)),
                Fault::StopUnderTask => ("no service is told to stop while a live task could call it", |_, world| {
                    !world.saw(Fault::StopUnderTask)
                }),
                Fault::StopOutOfOrder => {
                    ("services stop one by one in reverse order", |_, world| !world.saw(Fault::StopOutOfOrder))
                }
                Fault::OpenGate => ("gates close before a service stops", |_, world| !world.saw(Fault::OpenGate)),
                Fault::Misdirected => ("orders fit what they are for", |_, world| !world.saw(Fault::Misdirected)),
                Fault::ArmedTwice => ("a deadline is armed once", |_, world| !world.saw(Fault::ArmedTwice)),
                Fault::SilentChange => ("a change raises the version", |_, world| !world.saw(Fault::SilentChange)),
                Fault::EndedBusy => {
                    ("a loop is ended once, and only when it is quiet", |_, world| !world.saw(Fault::EndedBusy))
                }
                Fault::EndUnderCalls => {
                    ("a pipeline ends after its service has answered", |_, world| !world.saw(Fault::EndUnderCalls))
                }
                Fault::AnewUnended => ("an attempt begins once nothing of the one before lives", |_, world| {
                    !world.saw(Fault::AnewUnended)
                }),
                Fault::AnewUnasked => ("a job begins anew only after a failure, and as often as it may", |_, world| {
                    !world.saw(Fault::AnewUnasked)
                }),
                Fault::Unbegun => ("tasks start once all services are up", |_, world| !world.saw(Fault::Unbegun)),
            }
        };
        let rules: [(&'static str, Condition); 14] = [
            ("always ends", ends_or_is_awaited),
            ("a failed job never reads as completed", |_, world| {
                world.first != Some(First::Failure) || world.outcome_is(Outcome::is_failed)
            }),
            ("a cancelled job reads as cancelled, with what was dropped", reads_as_cancelled),
            ("completed only if every task finished and the accounts balance", completed_is_earned),
            ("stopped only if a source was cut short or never started", stopped_is_earned),
            ("a job fails only by a failure or its accounts", failure_is_earned),
            ("nothing lives when a job has ended", nothing_lives_after_the_end),
            ("services are counted as a search would", |_, world| world.machine.services_are_counted()),
            ("tasks are counted as a search would", |_, world| world.machine.tasks_are_counted()),
            ("paused only if every live task holds", |_, world| {
                let epoch = world.machine.hold_epoch;
                world.machine.state() != JobState::Paused
                    || world.significant().all(|task| !task.is_live() || task.holds_for(epoch))
            }),
            ("outputs are complete only if the tasks' verdict is", sealed_as_earned),
            ("outputs are open while the job is to begin anew", |_, world| {
                world.machine.state() != JobState::Restarting || world.sealed.is_none()
            }),
            ("an earned outcome changes only by a failure while the job is idle", earned_stays),
            ("late and repeated events change nothing", stale_events_change_nothing),
        ];
        let always = Fault::ALL.map(faults).into_iter().chain(rules);
        let sometimes = self.sights.iter().map(|&(name, condition)| Property::sometimes(name, condition));
        always.map(|(name, condition)| Property::always(name, condition)).chain(sometimes).collect()
    }
}

/// Where the world can do nothing more by itself, the job has ended, or a client knows why it has not.
fn ends_or_is_awaited(job: &Job, world: &World) -> bool {
    let mut own = Vec::new();
    world.own_actions(&mut own);
    // What may go wrong need not.
    own.retain(|action| !action.is_mishap());
    let undecided = world.first.is_none();
    let unstopped = world.budget.stop == job.budget.stop;
    let awaited = match world.machine.state() {
        JobState::Ended => true,
        JobState::Paused => undecided && unstopped,
        JobState::Idle => undecided && unstopped && !job.setup.autostop && !job.setup.services.is_empty(),
        JobState::Starting => world.service_hangs(),
        JobState::Running | JobState::Pausing | JobState::Draining => undecided && world.task_hangs(),
        _ => false,
    };
    !own.is_empty() || awaited
}

fn reads_as_cancelled(_: &Job, world: &World) -> bool {
    let lost = world.tasks.iter().any(|task| task.lost);
    let warned = world.machine.warnings().iter().any(|warning| matches!(warning, Warning::Accounts { .. }));
    match (&world.first, world.machine.outcome()) {
        (Some(First::Cancel(reason)), Some(Outcome::Cancelled { reason: told, dropped })) => {
            told == reason && *dropped == world.dropped && (lost || !warned)
        }
        (Some(First::Cancel(_)), outcome) => outcome.is_none(),
        (_, outcome) => !matches!(outcome, Some(Outcome::Cancelled { .. })),
    }
}

fn completed_is_earned(_: &Job, world: &World) -> bool {
    let finished = |stage| stage == TaskStage::Ended(End::Finished);
    world.machine.outcome() != Some(&Outcome::Completed)
        || world.significant().all(|task| finished(task.stage) && !task.lost)
}

fn stopped_is_earned(_: &Job, world: &World) -> bool {
    let cut = world.tasks.iter().any(|task| task.stage == TaskStage::Ended(End::Cut));
    let unstarted =
        world.significant().next().is_some() && world.significant().all(|task| task.stage == TaskStage::Waiting);
    match world.machine.outcome() {
        Some(Outcome::Stopped) => cut || unstarted,
        Some(Outcome::Completed) => !cut && !unstarted,
        _ => true,
    }
}

fn failure_is_earned(_: &Job, world: &World) -> bool {
    let lost = world.tasks.iter().any(|task| task.lost);
    match world.machine.outcome() {
        Some(Outcome::Failed(FailureCause::Accounts { .. })) => world.first.is_none() && lost,
        Some(Outcome::Failed(
            FailureCause::Operator { .. }
            | FailureCause::ServiceFailed { .. }
            | FailureCause::WorkerLost { .. }
            | FailureCause::NotBegunAnew { .. },
        )) => world.first == Some(First::Failure),
        Some(Outcome::Failed(_)) => false,
        _ => true,
    }
}

fn nothing_lives_after_the_end(_: &Job, world: &World) -> bool {
    let machine = &world.machine;
    machine.state() != JobState::Ended
        || machine.live_tasks() == 0
            && machine.live_services() == 0
            && !world.tasks.iter().any(|task| task.is_live())
            && !world.services.iter().any(|service| service.is_live())
            && world.deadlines.values().all(|armed| !armed)
}

fn sealed_as_earned(_: &Job, world: &World) -> bool {
    match (world.sealed, world.machine.state()) {
        (None, JobState::Idle | JobState::StoppingServices | JobState::Ended) => false,
        (Some(complete), JobState::Ended) => {
            let drained = world.outcome_is(Outcome::is_drained);
            // A service of an idle job can still fail it; its outputs stay whole.
            complete == drained || complete && world.was_idle && world.outcome_is(Outcome::is_failed)
        }
        _ => true,
    }
}

/// Once the tasks have earned it, neither `stop` nor `cancel` nor a limit of time replaces an outcome.
fn earned_stays(_: &Job, world: &World) -> bool {
    match (&world.earned, world.machine.outcome()) {
        (Some(earned), Some(outcome)) => {
            outcome == earned || world.was_idle && outcome.is_failed() && world.first == Some(First::Failure)
        }
        (None, outcome) => outcome.is_none(),
        (Some(_), None) => true,
    }
}

/// Whatever comes late, twice, for nobody or after its deadline was disarmed.
fn stale_events_change_nothing(_: &Job, world: &World) -> bool {
    let mut machine = world.machine.clone();
    let stale = stale_events(world);
    let silent = stale
        .into_iter()
        .all(|event| machine.apply(event, std::time::Duration::ZERO).is_ok_and(|commands| commands.is_empty()));
    let pausable = matches!(machine.state(), JobState::Running | JobState::Pausing | JobState::Paused);
    let refused = pausable || machine.apply(Event::Pause, std::time::Duration::ZERO).is_err();
    silent && refused && machine == world.machine
}

fn stale_events(world: &World) -> Vec<Event> {
    let mut stale = vec![Event::Begin];
    let ended = world.machine.state() == JobState::Ended;
    let current = world.machine.attempt();
    // Earlier and later ones, and the present one for what is over.
    let attempts = |over: bool| {
        let others = [Attempt(0), Attempt(current.0 - 1), Attempt(current.0 + 1)];
        others.into_iter().chain(over.then_some(current))
    };
    for attempt in attempts(ended || !world.deploying) {
        let cause = FailureCause::NotBegunAnew { message: "late".into() };
        stale.extend([Event::Deployed { attempt }, Event::Undeployed { attempt, cause }]);
    }
    if ended {
        stale.extend([Event::Stop, Event::Resume, Event::Cancel(crate::job::CancelReason::Deleted)]);
    }
    for (at, task) in world.tasks.iter().enumerate() {
        let id = super::task_id(at);
        let over = ended || !task.is_live() && !world.awaits_report_of(at);
        for attempt in attempts(over) {
            let failure =
                TaskEvent::Failed { cause: FailureCause::Internal("late".into()), report: TaskReport::default() };
            let events = [TaskEvent::Finished(TaskReport::default()), failure, TaskEvent::Held { epoch: 1 }];
            stale.extend(events.map(|event| Event::Task { attempt, task: id, event }));
        }
    }
    let all = || (0..world.tasks.len()).map(super::task_id).collect();
    let services = || (0..world.services.len()).map(super::service_id).collect();
    let nothing_lives = world.machine.live_tasks() == 0 && world.machine.live_services() == 0;
    let over = ended || world.machine.state() != JobState::Starting && nothing_lives;
    for attempt in attempts(over) {
        let cause = FailureCause::Internal("late".into());
        let lost = |gone, cause| Event::Lost { attempt, tasks: all(), services: services(), gone, cause };
        stale.extend([lost(true, cause.clone()), lost(false, cause)]);
    }
    for (at, service) in world.services.iter().enumerate() {
        let id = super::service_id(at);
        let now = service.incarnation;
        let over = ended || !service.is_live() && !world.awaits_report_of_service(at);
        let incarnations = (0..now + u32::from(over)).chain([now + 1]).map(Incarnation);
        for incarnation in incarnations {
            let failure = ServiceEvent::Failed { message: "late".into() };
            let events = [ServiceEvent::Started, failure, ServiceEvent::Stopped { hook_panicked: true }];
            let attempt = current;
            stale.extend(events.map(|event| Event::Service { attempt, service: id, incarnation, event }));
        }
        for attempt in attempts(false) {
            let failure = ServiceEvent::Failed { message: "of another attempt".into() };
            let events = [ServiceEvent::Started, failure, ServiceEvent::Stopped { hook_panicked: false }];
            let incarnation = Incarnation(now);
            stale.extend(events.map(|event| Event::Service { attempt, service: id, incarnation, event }));
        }
    }
    let deadlines = (0..world.services.len()).map(|at| Deadline::Service(super::service_id(at)));
    let silent = deadlines
        .chain([Deadline::Tasks, Deadline::Loops, Deadline::RunLimit, Deadline::Restart])
        .filter(|it| !world.is_armed(*it));
    stale.extend(silent.map(Event::Elapsed));
    stale
}

fn seen_outcome<const N: usize>(_: &Job, world: &World) -> bool {
    let wanted: fn(&Outcome) -> bool = match N {
        COMPLETED => Outcome::is_completed,
        STOPPED => |outcome| *outcome == Outcome::Stopped,
        CANCELLED => |outcome| matches!(outcome, Outcome::Cancelled { .. }),
        _ => Outcome::is_failed,
    };
    world.machine.outcome().is_some_and(wanted)
}
const COMPLETED: usize = 0;
const STOPPED: usize = 1;
const CANCELLED: usize = 2;
const FAILED: usize = 3;

const ENDS_COMPLETED: (&str, Condition) = ("ends completed", seen_outcome::<COMPLETED>);
const ENDS_STOPPED: (&str, Condition) = ("ends stopped", seen_outcome::<STOPPED>);
const ENDS_CANCELLED: (&str, Condition) = ("ends cancelled", seen_outcome::<CANCELLED>);
const ENDS_FAILED: (&str, Condition) = ("ends failed", seen_outcome::<FAILED>);
const PAUSES: (&str, Condition) = ("pauses", |_, world| world.machine.state() == JobState::Paused);
const IDLES: (&str, Condition) = ("idles", |_, world| world.machine.state() == JobState::Idle);
const ABANDONS_A_TASK: (&str, Condition) =
    ("abandons a task", |_, world| world.tasks.iter().any(|task| task.stage == TaskStage::Abandoned));
const ABANDONS_A_SERVICE: (&str, Condition) = ("abandons a service", |_, world| {
    (0..world.services.len()).any(|at| world.machine.service_state(super::service_id(at)).0 == ActorState::Abandoned)
});
const RESTARTS: (&str, Condition) = ("restarts a service", |_, world| world.machine.restarts() > 0);
const RESTARTS_TWICE: (&str, Condition) = ("restarts a service again", |_, world| world.machine.restarts() > 1);
const FAILS_BY_ACCOUNTS: (&str, Condition) = ("fails by its accounts", |_, world| {
    matches!(world.machine.outcome(), Some(Outcome::Failed(FailureCause::Accounts { .. })))
});

impl Job {
    /// `channels` are pairs of tasks, and each task has at most one.
    fn new(tasks: usize, channels: &[(u32, u32)], services: usize) -> Self {
        Self { setup: world::setup(tasks, channels, services), budget: Budget::default(), sights: Vec::new() }
    }

    fn autostop(mut self) -> Self {
        self.setup.autostop = true;
        self
    }

    /// Makes a loop of these tasks, which begins at the first of them.
    fn looped(mut self, members: &[u32]) -> Self {
        self.setup.loops = vec![members.iter().map(|&task| crate::job::TaskId(task)).collect()];
        self
    }

    /// Has these tasks answer for a service.
    fn pipeline(mut self, tasks: &[usize], service: u32) -> Self {
        for &task in tasks {
            self.setup.tasks[task].service = Some(crate::job::ServiceId(service));
        }
        self
    }

    fn run_limit(mut self) -> Self {
        self.setup.run_limit = true;
        self
    }

    fn restarting(mut self, restarts: u32) -> Self {
        self.setup.restart = crate::job::Restart::fixed(restarts, std::time::Duration::ZERO);
        self
    }

    fn allowing(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    fn seeing(mut self, sights: &[(&'static str, Condition)]) -> Self {
        self.sights = sights.to_vec();
        self
    }

    /// Explores every state; returns how many there are.
    fn check(self) -> usize {
        let checker = self.checker().spawn_bfs().join();
        checker.assert_properties();
        checker.unique_state_count()
    }
}

#[test]
fn the_rules_hold_for_two_tasks_and_a_service_under_every_request() {
    let budget = Budget { stop: 1, cancel: 1, pause: 1, resume: 1, hangs: 1, task_failures: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, ENDS_FAILED, PAUSES, ABANDONS_A_TASK];
    let states = Job::new(2, &[(0, 1)], 1).autostop().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_a_job_paused_again_and_again() {
    let budget = Budget { stop: 1, cancel: 1, pause: 2, resume: 2, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, PAUSES];
    let states = Job::new(2, &[(0, 1)], 0).autostop().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_a_job_that_pauses_while_tasks_end() {
    let budget = Budget { cancel: 1, pause: 2, resume: 1, hangs: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_CANCELLED, PAUSES, ABANDONS_A_TASK];
    let states = Job::new(2, &[], 0).autostop().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_three_tasks_that_fail_and_hang_and_nothing_idles_without_a_service() {
    let budget = Budget { stop: 1, cancel: 1, hangs: 1, task_failures: 2, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, ENDS_FAILED, ABANDONS_A_TASK];
    let states = Job::new(3, &[(0, 2), (1, 2)], 0).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_services_that_fail_hang_and_panic_in_their_hooks() {
    let budget = Budget { stop: 1, cancel: 1, hangs: 1, service_failures: 2, late_failures: 1, ..Budget::default() };
    let sights = [
        ENDS_COMPLETED,
        ENDS_STOPPED,
        ENDS_CANCELLED,
        ENDS_FAILED,
        IDLES,
        ABANDONS_A_SERVICE,
        RESTARTS,
        RESTARTS_TWICE,
    ];
    let states = Job::new(1, &[], 2).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_tasks_and_services_that_fail_together() {
    let budget = Budget { cancel: 1, pause: 1, task_failures: 1, service_failures: 2, hangs: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_CANCELLED, ENDS_FAILED, PAUSES, RESTARTS, ABANDONS_A_TASK, ABANDONS_A_SERVICE];
    let states = Job::new(2, &[(0, 1)], 1).autostop().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_under_a_run_limit() {
    let budget = Budget { stop: 1, cancel: 1, hangs: 1, service_failures: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, IDLES, ABANDONS_A_TASK, ABANDONS_A_SERVICE];
    let states = Job::new(1, &[], 1).run_limit().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn a_job_under_autostop_ends_without_any_request() {
    let budget = Budget { task_failures: 1, service_failures: 2, hook_panics: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_FAILED, RESTARTS];
    let states = Job::new(2, &[(0, 1)], 2).autostop().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

const LOSES_A_TASK: (&str, Condition) =
    ("loses a task", |_, world| world.tasks.iter().any(|task| task.stage == TaskStage::Lost));
const SURVIVES_A_LOSS: (&str, Condition) = ("completes although a worker was lost", |job, world| {
    world.budget.losses < job.budget.losses && seen_outcome::<COMPLETED>(job, world)
});

#[test]
fn a_lost_worker_fails_the_job_unless_its_tasks_have_reported() {
    let budget = Budget { stop: 1, cancel: 1, hangs: 1, losses: 2, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, ENDS_FAILED, LOSES_A_TASK, SURVIVES_A_LOSS];
    let states = Job::new(2, &[(0, 1)], 1).autostop().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_workers_that_are_lost_while_the_job_is_paused_or_idle() {
    let budget = Budget { cancel: 1, pause: 1, resume: 1, task_failures: 1, losses: 2, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_CANCELLED, ENDS_FAILED, PAUSES, IDLES, LOSES_A_TASK, SURVIVES_A_LOSS];
    let states = Job::new(2, &[(0, 1)], 1).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

const LOSES_A_SERVICE: (&str, Condition) = ("loses a service that it had begun to stop", |_, world| {
    let is_late = |warning: &Warning| matches!(warning, Warning::ServiceFailedLate { .. });
    world.budget.losses == 0 && world.machine.warnings().iter().any(is_late)
});

#[test]
fn the_rules_hold_for_services_whose_workers_are_lost_at_any_moment() {
    let budget = Budget { stop: 1, cancel: 1, hangs: 1, service_failures: 1, losses: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_CANCELLED, ENDS_FAILED, IDLES, RESTARTS, LOSES_A_SERVICE, ABANDONS_A_SERVICE];
    let states = Job::new(1, &[], 2).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_two_workers_of_services_that_are_lost_one_after_the_other() {
    let budget = Budget { stop: 1, hook_panics: 1, losses: 2, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_FAILED, IDLES, LOSES_A_SERVICE];
    let states = Job::new(1, &[], 2).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_a_pipeline_whose_worker_is_lost() {
    let budget = Budget { stop: 1, hangs: 1, losses: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_FAILED, LOSES_A_TASK];
    let states = Job::new(2, &[], 1).pipeline(&[1], 0).allowing(budget).seeing(&sights).check();
    assert!(states > 100, "only {states} states");
}

#[test]
fn a_lost_item_never_passes_for_completion() {
    let budget = Budget { stop: 1, cancel: 1, lost_items: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, FAILS_BY_ACCOUNTS];
    let states = Job::new(3, &[(0, 2), (1, 2)], 1).autostop().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

const LOOP_TOLD: (&str, Condition) = ("ends a loop that is quiet", |_, world| world.looping_told());
const LOOP_CLOSED: (&str, Condition) = ("closes a loop", |_, world| world.looping_closed());
const LOOP_CUT: (&str, Condition) = ("cuts a loop", |_, world| world.looping_cut());

/// A source, a loop of two tasks, and a sink behind it.
fn looping() -> Job {
    Job::new(4, &[(0, 1), (1, 2), (2, 1), (2, 3)], 0).looped(&[1, 2]).autostop()
}

#[test]
fn a_loop_ends_at_the_moment_it_is_quiet_and_never_before() {
    let budget = Budget { trips: 3, hints: 1, ..Budget::default() };
    let states = looping().allowing(budget).seeing(&[ENDS_COMPLETED, LOOP_TOLD]).check();
    assert!(states > 1_000, "only {states} states");
}

/// A source and a loop of two tasks.
fn bare_loop(budget: Budget) -> Job {
    Job::new(3, &[(0, 1), (1, 2), (2, 1)], 0).looped(&[1, 2]).autostop().allowing(budget)
}

#[test]
fn the_rules_hold_for_a_loop_that_is_stopped() {
    let budget = Budget { stop: 1, trips: 2, ..Budget::default() };
    let states = bare_loop(budget).seeing(&[ENDS_COMPLETED, ENDS_STOPPED, LOOP_TOLD, LOOP_CUT]).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn a_loop_that_nobody_wants_ends() {
    let budget = Budget { stop: 1, trips: 1, hints: 1, unwanted: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, LOOP_TOLD, LOOP_CUT, LOOP_CLOSED];
    let states = bare_loop(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_a_loop_that_is_paused_and_cancelled() {
    let budget = Budget { cancel: 1, pause: 1, resume: 1, trips: 1, ..Budget::default() };
    let states = bare_loop(budget).seeing(&[ENDS_COMPLETED, ENDS_CANCELLED, PAUSES, LOOP_TOLD]).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_a_loop_whose_tasks_fail_and_hang() {
    let budget = Budget { stop: 1, hangs: 1, task_failures: 1, trips: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_FAILED, ABANDONS_A_TASK, LOOP_TOLD, LOOP_CUT];
    let states = bare_loop(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn a_loop_of_one_task_that_nothing_enters_ends() {
    let budget = Budget { stop: 1, trips: 3, hints: 2, ..Budget::default() };
    let states = Job::new(1, &[(0, 0)], 0).looped(&[0]).autostop().allowing(budget);
    let states = states.seeing(&[ENDS_COMPLETED, ENDS_STOPPED, LOOP_TOLD]).check();
    assert!(states > 100, "only {states} states");
}

#[test]
fn a_pipeline_service_ends_after_the_last_caller() {
    let budget = Budget { stop: 1, cancel: 1, pause: 1, resume: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_STOPPED, ENDS_CANCELLED, PAUSES, IDLES];
    let states = Job::new(3, &[(1, 2)], 2).pipeline(&[1, 2], 1).allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn the_rules_hold_for_a_pipeline_service_that_fails_and_hangs() {
    let budget = Budget { stop: 1, hangs: 1, task_failures: 1, service_failures: 2, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_FAILED, RESTARTS, ABANDONS_A_TASK, ABANDONS_A_SERVICE];
    let states = Job::new(2, &[], 1).pipeline(&[1], 0).autostop().allowing(budget).seeing(&sights).check();
    assert!(states > 1_000, "only {states} states");
}

#[test]
fn a_job_of_a_pipeline_service_only_completes_or_idles() {
    let budget = Budget { stop: 1, cancel: 1, task_failures: 1, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_CANCELLED, ENDS_FAILED, IDLES];
    let states = Job::new(2, &[(0, 1)], 1).pipeline(&[0, 1], 0).allowing(budget).seeing(&sights).check();
    assert!(states > 100, "only {states} states");
}

#[test]
fn the_rules_hold_for_a_job_of_services_only() {
    let budget = Budget { stop: 1, cancel: 1, hangs: 1, service_failures: 2, ..Budget::default() };
    let sights = [ENDS_COMPLETED, ENDS_CANCELLED, ENDS_FAILED, IDLES, RESTARTS, ABANDONS_A_SERVICE];
    let states = Job::new(0, &[], 2).allowing(budget).seeing(&sights).check();
    assert!(states > 100, "only {states} states");
}
