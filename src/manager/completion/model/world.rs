//! The world around the rules: every step of a task, a service or a client is a choice.

mod looping;
mod obey;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    job::{CancelReason, JobState, Outcome, Restart, restart::Strategy},
    manager::completion::{ChannelSetup, Completion, Deadline, Event, Setup, TaskSetup, task_id},
    protocol::TaskReport,
};

const RESTARTS_MAX: u32 = 1;
const RESTART_WINDOW: Duration = Duration::from_secs(10);

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) stop: u8,
    pub(super) cancel: u8,
    pub(super) pause: u8,
    pub(super) resume: u8,
    /// Tasks that never return, services that never start or stop.
    pub(super) hangs: u8,
    pub(super) task_failures: u8,
    pub(super) service_failures: u8,
    /// Of these, the ones that come a whole restart window after the one before.
    pub(super) late_failures: u8,
    pub(super) hook_panics: u8,
    /// Items that a consumer never sees.
    pub(super) lost_items: u8,
    /// Batches sent within a loop.
    pub(super) trips: u8,
    /// Hints that a loop may be quiet that nothing stands behind.
    pub(super) hints: u8,
    /// Workers that are lost, or cut off from others.
    pub(super) losses: u8,
    /// Times that nobody wants what comes out of a loop any more.
    pub(super) unwanted: u8,
    /// Attempts that cannot be deployed.
    pub(super) undeployed: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    Finished,
    Cut,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TaskStage {
    Waiting,
    Running,
    Hung,
    Ended(End),
    Abandoned,
    /// With its worker.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TaskActor {
    pub(super) stage: TaskStage,
    /// It lost an item without knowing.
    pub(super) lost: bool,
    stop: bool,
    cancel: bool,
    /// The hold it was ordered to pass on, and whether it has.
    hold: Option<(u32, bool)>,
    looped: looping::Part,
    /// Of a pipeline service's task: it was told that no more requests come.
    pub(super) unasked: bool,
    /// From its end to the delivery.
    report: Option<TaskReport>,
}

impl TaskActor {
    fn new() -> Self {
        Self {
            stage: TaskStage::Waiting,
            lost: false,
            stop: false,
            cancel: false,
            hold: None,
            looped: looping::Part::default(),
            unasked: false,
            report: None,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.stage, TaskStage::Running | TaskStage::Hung)
    }

    fn holds(&self) -> bool {
        matches!(self.hold, Some((_, true)))
    }

    /// Whether it has passed the mark of this hold on.
    pub(super) fn holds_for(&self, epoch: u32) -> bool {
        self.hold == Some((epoch, true))
    }

    fn is_drained(&self) -> bool {
        matches!(self.stage, TaskStage::Ended(End::Finished | End::Cut))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ServiceStage {
    Waiting,
    Starting,
    Running,
    Told,
    Hung,
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServiceActor {
    stage: ServiceStage,
    pub(super) incarnation: u32,
    /// Restart windows gone by.
    clock: u32,
    /// Failures reported within the current one.
    failures: u32,
}

impl ServiceActor {
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.stage, ServiceStage::Waiting | ServiceStage::Gone)
    }
}

/// A report on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Mail {
    Held { task: usize, epoch: u32 },
    TaskEnded { task: usize },
    Quiet { task: usize },
    Unwanted { task: usize },
    Scanned { task: usize, wave: u32, at_rest: bool, sent: u64, received: u64 },
    ServiceStarted { service: usize, incarnation: u32 },
    ServiceFailed { service: usize, incarnation: u32 },
    ServiceStopped { service: usize, incarnation: u32, hook_panicked: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Deliver(Mail),
    Elapse(Deadline),
    Stop,
    Cancel,
    Pause,
    Resume,
    PassHold {
        task: usize,
    },
    End {
        task: usize,
        end: End,
        lost: bool,
    },
    HangTask {
        task: usize,
    },
    Send {
        channel: usize,
    },
    Take {
        channel: usize,
    },
    Rest {
        task: usize,
    },
    AnswerScan {
        task: usize,
    },
    Hint {
        task: usize,
    },
    Unwant {
        task: usize,
    },
    Start {
        service: usize,
    },
    Fail {
        service: usize,
        late: bool,
    },
    StopAsTold {
        service: usize,
        hook_panicked: bool,
    },
    HangService {
        service: usize,
    },
    Deployed,
    Undeployed,
    /// This worker is gone, or has lost another one.
    Lose {
        worker: usize,
        gone: bool,
    },
}

impl Action {
    /// Whether the world could as well have done without.
    pub(super) fn is_mishap(&self) -> bool {
        match *self {
            Self::Fail { .. } | Self::HangTask { .. } | Self::HangService { .. } => true,
            Self::Hint { .. } | Self::Unwant { .. } | Self::Lose { .. } | Self::Undeployed => true,
            // A loop need not go on.
            Self::Send { .. } => true,
            Self::End { end, lost, .. } => end == End::Failed || lost,
            _ => false,
        }
    }
}

/// What came first of those that decide the outcome, by the world's own account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum First {
    Cancel(CancelReason),
    /// It keeps what the tasks have earned.
    CancelWhileIdle,
    Failure,
}

/// A command that should not have been given, when it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fault {
    Endless,
    AfterEnd,
    SealedTwice,
    StopUnderTask,
    StopOutOfOrder,
    OpenGate,
    Misdirected,
    ArmedTwice,
    SilentChange,
    Unbegun,
    EndedBusy,
    EndUnderCalls,
    AnewUnended,
    AnewUnasked,
}

impl Fault {
    pub(super) const ALL: [Self; 14] = [
        Self::Endless,
        Self::AfterEnd,
        Self::SealedTwice,
        Self::StopUnderTask,
        Self::StopOutOfOrder,
        Self::OpenGate,
        Self::Misdirected,
        Self::ArmedTwice,
        Self::SilentChange,
        Self::Unbegun,
        Self::EndedBusy,
        Self::EndUnderCalls,
        Self::AnewUnended,
        Self::AnewUnasked,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) machine: Completion,
    pub(super) tasks: Vec<TaskActor>,
    pub(super) services: Vec<ServiceActor>,
    /// Every deadline that was ever armed, and whether it still is.
    pub(super) deadlines: BTreeMap<Deadline, bool>,
    pub(super) sealed: Option<bool>,
    pub(super) was_idle: bool,
    /// What the tasks had earned when the outputs were sealed.
    pub(super) earned: Option<Outcome>,
    pub(super) first: Option<First>,
    /// Items reported as thrown away.
    pub(super) dropped: u64,
    looping: looping::Looping,
    mail: BTreeSet<Mail>,
    pub(super) budget: Budget,
    gates_closed: bool,
    ended: bool,
    /// How often the job may still begin anew.
    restarts_left: u8,
    /// It is to, by the world's own account.
    anew: bool,
    /// Nothing of the last attempt is kept.
    attempt_ended: bool,
    /// The next one is being deployed.
    pub(super) deploying: bool,
    stopped: bool,
    faults: BTreeSet<Fault>,
}

pub(super) fn setup(tasks: usize, channels: &[(u32, u32)], services: usize) -> Setup {
    let channel = |&(from, to): &(u32, u32)| ChannelSetup {
        from: task_id(from as usize),
        to: task_id(to as usize),
        name: format!("{from} -> {to}"),
    };
    Setup {
        tasks: (0..tasks).map(|at| TaskSetup { name: at.to_string(), operators: Vec::new(), service: None }).collect(),
        channels: channels.iter().map(channel).collect(),
        services: (0..services).map(|at| at.to_string()).collect(),
        loops: Vec::new(),
        autostop: false,
        run_limit: false,
        restarts_max: RESTARTS_MAX,
        restart_window: RESTART_WINDOW,
        restart: Restart::never(),
    }
}

impl World {
    pub(super) fn begin(setup: Setup, budget: Budget) -> Self {
        let restarts_left = match setup.restart.0 {
            Strategy::Fixed { restarts, .. } => restarts as u8,
            _ => 0,
        };
        let service = ServiceActor { stage: ServiceStage::Waiting, incarnation: 0, clock: 0, failures: 0 };
        let mut world = Self {
            tasks: vec![TaskActor::new(); setup.tasks.len()],
            services: vec![service; setup.services.len()],
            machine: Completion::new(setup),
            deadlines: BTreeMap::new(),
            sealed: None,
            was_idle: false,
            earned: None,
            first: None,
            dropped: 0,
            looping: looping::Looping::default(),
            mail: BTreeSet::new(),
            budget,
            gates_closed: false,
            ended: false,
            restarts_left,
            anew: false,
            attempt_ended: false,
            deploying: false,
            stopped: false,
            faults: BTreeSet::new(),
        };
        world.close_loop();
        world.tell(Event::Begin);
        world
    }

    pub(super) fn is_significant(&self, task: usize) -> bool {
        self.machine.setup.tasks[task].is_significant()
    }

    /// Each task has a worker of its own, and so has each service, together with the tasks that answer for it.
    pub(super) fn worker_of(&self, task: usize) -> usize {
        let service = self.machine.setup.tasks[task].service;
        service.map_or(task, |service| self.tasks.len() + service.index())
    }

    /// The tasks that the job waits for.
    pub(super) fn significant(&self) -> impl Iterator<Item = &TaskActor> {
        self.tasks.iter().enumerate().filter(|(at, _)| self.is_significant(*at)).map(|(_, task)| task)
    }

    pub(super) fn saw(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    pub(super) fn is_armed(&self, deadline: Deadline) -> bool {
        self.deadlines.get(&deadline) == Some(&true)
    }

    /// Whether the job has not ended, or its outcome is such.
    pub(super) fn outcome_is(&self, such: fn(&Outcome) -> bool) -> bool {
        self.machine.outcome().is_none_or(such)
    }

    /// Whether a task never returns.
    pub(super) fn task_hangs(&self) -> bool {
        self.tasks.iter().any(|task| task.stage == TaskStage::Hung)
    }

    /// Whether a service never finishes what it was told.
    pub(super) fn service_hangs(&self) -> bool {
        self.services.iter().any(|service| service.stage == ServiceStage::Hung)
    }

    pub(super) fn awaits_report_of(&self, task: usize) -> bool {
        self.mail.contains(&Mail::TaskEnded { task })
    }

    pub(super) fn awaits_report_of_service(&self, at: usize) -> bool {
        self.mail.iter().any(|mail| match mail {
            Mail::ServiceStarted { service, .. }
            | Mail::ServiceFailed { service, .. }
            | Mail::ServiceStopped { service, .. } => *service == at,
            Mail::Held { .. } | Mail::TaskEnded { .. } | Mail::Quiet { .. } | Mail::Unwanted { .. } => false,
            Mail::Scanned { .. } => false,
        })
    }

    /// Falls with every step, whatever the step causes: so no path is infinite.
    fn rank(&self) -> usize {
        let budget = &self.budget;
        // A pause makes each task report once more (two steps); a failure makes one more instance (at most five).
        let requests = usize::from(budget.stop + budget.cancel + budget.resume)
            + usize::from(budget.pause) * (1 + 2 * self.tasks.len());
        let mail = self.mail.iter().map(|mail| if matches!(mail, Mail::ServiceFailed { .. }) { 7 } else { 1 });
        let tasks = self.tasks.iter().map(|task| match task.stage {
            // Those of a later attempt may be told to hold as they start.
            TaskStage::Waiting => 6,
            TaskStage::Running => 3 + 2 * usize::from(matches!(task.hold, Some((_, false)))),
            TaskStage::Hung => 1,
            TaskStage::Ended(_) | TaskStage::Abandoned | TaskStage::Lost => 0,
        });
        let services = self.services.iter().map(|service| match service.stage {
            ServiceStage::Waiting => 6,
            ServiceStage::Starting => 5,
            ServiceStage::Running | ServiceStage::Told => 3,
            ServiceStage::Hung => 1,
            ServiceStage::Gone => 0,
        });
        let unarmed = 4 + self.services.len() - self.deadlines.len();
        let deadlines = 2 * unarmed + self.deadlines.values().filter(|armed| **armed).count();
        requests
            + usize::from(budget.service_failures) * 8
            + usize::from(budget.losses)
            // What a whole attempt may come to.
            + usize::from(self.restarts_left) * 200
            + usize::from(budget.undeployed) * 4
            + usize::from(self.deploying)
            + mail.sum::<usize>()
            + tasks.sum::<usize>()
            + services.sum::<usize>()
            + deadlines
            + self.loop_rank()
    }

    /// What tasks, services, deadlines and reports on their way may do next.
    pub(super) fn own_actions(&self, actions: &mut Vec<Action>) {
        actions.extend(self.mail.iter().map(|&mail| Action::Deliver(mail)));
        actions.extend(self.deadlines.iter().filter(|(_, armed)| **armed).map(|(&it, _)| Action::Elapse(it)));
        for (at, task) in self.tasks.iter().enumerate() {
            if task.stage == TaskStage::Running {
                self.task_actions(at, actions);
            }
        }
        if self.budget.losses > 0 {
            let workers = 0..self.tasks.len() + self.services.len();
            actions.extend(workers.flat_map(|worker| [true, false].map(|gone| Action::Lose { worker, gone })));
        }
        if self.deploying {
            actions.push(Action::Deployed);
            if self.budget.undeployed > 0 {
                actions.push(Action::Undeployed);
            }
        }
        self.loop_actions(actions);
        for (service, actor) in self.services.iter().enumerate() {
            match actor.stage {
                ServiceStage::Starting => actions.push(Action::Start { service }),
                ServiceStage::Told => {
                    actions.push(Action::StopAsTold { service, hook_panicked: false });
                    if self.budget.hook_panics > 0 {
                        actions.push(Action::StopAsTold { service, hook_panicked: true });
                    }
                }
                ServiceStage::Running => {}
                ServiceStage::Waiting | ServiceStage::Hung | ServiceStage::Gone => continue,
            }
            if self.budget.service_failures > 0 {
                actions.push(Action::Fail { service, late: false });
                if self.budget.late_failures > 0 {
                    actions.push(Action::Fail { service, late: true });
                }
            }
            if self.budget.hangs > 0 && actor.stage != ServiceStage::Running {
                actions.push(Action::HangService { service });
            }
        }
    }

    fn task_actions(&self, at: usize, actions: &mut Vec<Action>) {
        let task = &self.tasks[at];
        let channels = self.machine.setup.channels.iter().enumerate();
        // What closes a loop neither ends nor holds its start.
        let upstream = channels.filter(|(index, channel)| channel.to.index() == at && !self.closes(*index));
        let mut upstream = upstream.map(|(_, channel)| &self.tasks[channel.from.index()]);
        let is_source = upstream.clone().next().is_none();
        let accepted = self
            .neighbours(|channel| (channel.from.index() == at).then_some(channel.to.index()))
            .all(|consumer| !matches!(consumer.stage, TaskStage::Ended(End::Failed | End::Cancelled)));
        let mut end = |end, lost| actions.push(Action::End { task: at, end, lost });
        let asked = is_source && !self.is_significant(at) && !task.unasked;
        if upstream.clone().all(TaskActor::is_drained) && !task.holds() && accepted && self.may_end(at) && !asked {
            end(if self.is_cut(at) { End::Cut } else { End::Finished }, false);
            if !is_source && self.budget.lost_items > 0 {
                end(End::Finished, true);
            }
            if is_source && task.stop && self.is_significant(at) {
                end(End::Cut, false);
            }
        }
        if self.budget.task_failures > 0 {
            end(End::Failed, false);
        }
        if task.cancel {
            end(End::Cancelled, false);
        }
        if self.budget.hangs > 0 {
            actions.push(Action::HangTask { task: at });
        }
        let mark_came = is_source
            || self.begins_loop(at) && upstream.clone().all(|task| task.holds() || task.is_drained())
            || upstream.clone().any(TaskActor::holds) && upstream.all(|task| task.holds() || task.is_drained());
        if matches!(task.hold, Some((_, false))) && mark_came {
            actions.push(Action::PassHold { task: at });
        }
    }

    fn neighbours<'a>(
        &'a self,
        pick: impl Fn(&ChannelSetup) -> Option<usize> + Clone + 'a,
    ) -> impl Iterator<Item = &'a TaskActor> + Clone {
        self.machine.setup.channels.iter().filter_map(pick).map(|at| &self.tasks[at])
    }

    /// What clients may ask for next.
    pub(super) fn client_actions(&self, actions: &mut Vec<Action>) {
        let state = self.machine.state();
        let pausable = matches!(state, JobState::Running | JobState::Pausing | JobState::Paused);
        let offers = [
            (self.budget.stop > 0, Action::Stop),
            (self.budget.cancel > 0, Action::Cancel),
            (self.budget.pause > 0 && pausable, Action::Pause),
            (self.budget.resume > 0, Action::Resume),
        ];
        actions.extend(offers.into_iter().filter(|(offered, _)| *offered).map(|(_, action)| action));
    }
}
