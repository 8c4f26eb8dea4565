//! How each step changes the world, and what it makes the rules hear.

use std::time::Duration;

use super::{
    Action, End, Fault, First, Mail, RESTART_WINDOW, RESTARTS_MAX, ServiceStage, TaskActor, TaskStage, World,
    looping::Inner,
};
use crate::{
    job::{Attempt, CancelReason, FailureCause, Incarnation, JobState},
    manager::completion::{Deadline, Event, service_id, task_id},
    protocol::{LoopScan, Received, Sent, ServiceEvent, TaskEvent, TaskReport},
};

impl World {
    pub(in crate::manager::completion::model) fn after(&self, action: Action) -> Self {
        let mut next = self.clone();
        next.act(action);
        if next.rank() >= self.rank() {
            next.faults.insert(Fault::Endless);
        }
        next
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Deliver(mail) => self.deliver(mail),
            Action::Elapse(deadline) => {
                self.deadlines.insert(deadline, false);
                if deadline == Deadline::RunLimit {
                    self.note_first(First::Cancel(CancelReason::Deadline));
                }
                self.tell(Event::Elapsed(deadline));
            }
            Action::Deployed => self.deployed(true),
            Action::Undeployed => self.deployed(false),
            Action::Stop => self.stop(),
            Action::Cancel => {
                self.budget.cancel -= 1;
                self.note_first(First::Cancel(CancelReason::Requested));
                self.tell(Event::Cancel(CancelReason::Requested));
            }
            Action::Pause => {
                self.budget.pause -= 1;
                self.tell(Event::Pause);
            }
            Action::Resume => {
                self.budget.resume -= 1;
                self.tell(Event::Resume);
            }
            Action::PassHold { task } => {
                let (epoch, _) = self.tasks[task].hold.expect("enabled only under a hold");
                self.tasks[task].hold = Some((epoch, true));
                self.mail.insert(Mail::Held { task, epoch });
            }
            Action::End { task, end, lost } => self.end_task(task, end, lost),
            Action::HangTask { task } => {
                self.budget.hangs -= 1;
                self.tasks[task].stage = TaskStage::Hung;
            }
            Action::Send { channel } => self.send(channel),
            Action::Take { channel } => self.take(channel),
            Action::Rest { task } => self.rest(task),
            Action::AnswerScan { task } => self.answer_scan(task),
            Action::Hint { task } => self.hint(task),
            Action::Unwant { task } => self.unwant(task),
            Action::Start { service } => {
                let actor = &mut self.services[service];
                actor.stage = ServiceStage::Running;
                self.mail.insert(Mail::ServiceStarted { service, incarnation: actor.incarnation });
            }
            Action::Fail { service, late } => {
                let actor = &mut self.services[service];
                actor.stage = ServiceStage::Gone;
                if late {
                    self.budget.late_failures -= 1;
                    (actor.clock, actor.failures) = (actor.clock + 1, 0);
                }
                self.budget.service_failures -= 1;
                self.mail.insert(Mail::ServiceFailed { service, incarnation: actor.incarnation });
            }
            Action::StopAsTold { service, hook_panicked } => {
                let actor = &mut self.services[service];
                actor.stage = ServiceStage::Gone;
                self.budget.hook_panics -= u8::from(hook_panicked);
                self.mail.insert(Mail::ServiceStopped { service, incarnation: actor.incarnation, hook_panicked });
            }
            Action::HangService { service } => {
                self.budget.hangs -= 1;
                self.services[service].stage = ServiceStage::Hung;
            }
            Action::Lose { worker, gone } => self.lose(worker, gone),
        }
    }

    fn deployed(&mut self, is_deployed: bool) {
        self.deploying = false;
        let attempt = self.machine.attempt();
        if is_deployed {
            return self.tell(Event::Deployed { attempt });
        }
        self.attempt_ended = true;
        self.budget.undeployed -= 1;
        self.deadlines.remove(&Deadline::Restart);
        self.note_first(First::Failure);
        let cause = FailureCause::NotBegunAnew { message: "no".into() };
        self.tell(Event::Undeployed { attempt, cause });
    }

    fn stop(&mut self) {
        let again = self.machine.attempt() > Attempt(1) && self.machine.state() == JobState::Starting;
        if self.first.is_none() && (again || self.machine.state() == JobState::Restarting) {
            self.first = Some(First::Failure);
        }
        self.stopped = true;
        self.budget.stop -= 1;
        self.tell(Event::Stop);
    }

    /// What the task reported before and has not been heard may be heard later.
    fn lose(&mut self, worker: usize, gone: bool) {
        self.budget.losses -= 1;
        let tasks: Vec<usize> = (0..self.tasks.len()).filter(|task| self.worker_of(*task) == worker).collect();
        let services: Vec<usize> = worker.checked_sub(self.tasks.len()).into_iter().collect();
        let mut is_live = false;
        for &at in &tasks {
            if self.machine.tasks[at].live && (gone || self.is_significant(at)) {
                is_live = true;
                if gone {
                    self.tasks[at].stage = TaskStage::Lost;
                }
            }
        }
        for &at in &services {
            if self.machine.services[at].is_live() {
                is_live = true;
                if gone {
                    self.services[at].stage = ServiceStage::Gone;
                }
            }
        }
        if is_live || self.machine.state() == JobState::Starting {
            self.note_first(First::Failure);
        }
        let cause = FailureCause::WorkerLost { worker: worker.to_string(), cause: "gone".into() };
        let (tasks, services) =
            (tasks.into_iter().map(task_id).collect(), services.into_iter().map(service_id).collect());
        self.tell(Event::Lost { attempt: self.machine.attempt(), tasks, services, gone, cause });
    }

    /// Every channel carries one item from the start, and a second one if its producer gets to its end.
    fn end_task(&mut self, at: usize, end: End, lost: bool) {
        let sent_by = |task: &TaskActor| if task.stage == TaskStage::Ended(End::Finished) { 2 } else { 1 };
        let channels = || self.machine.setup.channels.iter().enumerate();
        let received = channels().filter(|(_, channel)| channel.to.index() == at).map(|(index, channel)| {
            let drained = matches!(end, End::Finished | End::Cut);
            match self.inner(index) {
                Some(inner) => Received {
                    received: u64::from(inner.taken),
                    refused: u64::from(inner.refused),
                    discarded: u64::from(inner.waiting()),
                },
                None if drained => {
                    let sent = sent_by(&self.tasks[channel.from.index()]);
                    Received { received: sent - u64::from(lost), ..Received::default() }
                }
                None => Received { discarded: sent_by(&self.tasks[channel.from.index()]), ..Received::default() },
            }
        });
        let received = received.collect();
        let inner: Vec<_> =
            channels().filter(|(_, channel)| channel.from.index() == at).map(|(index, _)| self.inner(index)).collect();
        let looped = LoopScan { at_rest: true, ..self.scan_of(at) };
        self.budget.lost_items -= u8::from(lost);
        self.budget.task_failures -= u8::from(end == End::Failed);
        self.tasks[at].stage = TaskStage::Ended(end);
        self.tasks[at].lost = lost;
        self.tasks[at].hold = None;
        let dropped = u64::from(matches!(end, End::Failed | End::Cancelled));
        let by_end = sent_by(&self.tasks[at]);
        let sent = |inner: Option<Inner>| Sent { sent: inner.map_or(by_end, |inner| u64::from(inner.sent)), dropped };
        let sent = inner.into_iter().map(sent).collect();
        let cut_short = end == End::Cut;
        let report = TaskReport { cut_short, received, sent, looped, ..TaskReport::default() };
        self.tasks[at].report = Some(report);
        self.leave_loop(at);
        self.mail.insert(Mail::TaskEnded { task: at });
    }

    fn deliver(&mut self, mail: Mail) {
        self.mail.remove(&mail);
        let (service, incarnation, event) = match mail {
            Mail::Held { task, epoch } => return self.tell_of(task, TaskEvent::Held { epoch }),
            Mail::TaskEnded { task } => return self.deliver_end(task),
            Mail::Quiet { .. } | Mail::Unwanted { .. } | Mail::Scanned { .. } => return self.deliver_scan(mail),
            Mail::ServiceStarted { service, incarnation } => (service, incarnation, ServiceEvent::Started),
            Mail::ServiceFailed { service, incarnation } => {
                let actor = &mut self.services[service];
                actor.failures += 1;
                // An instance that was abandoned has no say any more.
                if actor.failures > RESTARTS_MAX && self.is_awaited(service) {
                    self.note_first(First::Failure);
                }
                (service, incarnation, ServiceEvent::Failed { message: "broken".into() })
            }
            Mail::ServiceStopped { service, incarnation, hook_panicked } => {
                (service, incarnation, ServiceEvent::Stopped { hook_panicked })
            }
        };
        let at = RESTART_WINDOW * 2 * self.services[service].clock;
        let (attempt, service) = (self.machine.attempt(), service_id(service));
        self.tell_at(Event::Service { attempt, service, incarnation: Incarnation(incarnation), event }, at);
    }

    fn deliver_end(&mut self, at: usize) {
        let report = self.tasks[at].report.take().expect("a task that ended has a report");
        let TaskStage::Ended(end) = self.tasks[at].stage else {
            // Abandoned meanwhile: too late.
            return self.tell_of(at, TaskEvent::Finished(report));
        };
        let discarded = report.received.iter().map(|end| end.discarded).sum::<u64>();
        self.dropped += discarded + report.sent.iter().map(|end| end.dropped).sum::<u64>();
        let event = match end {
            End::Finished | End::Cut => TaskEvent::Finished(report),
            End::Cancelled => TaskEvent::Cancelled(report),
            End::Failed => {
                self.note_first(First::Failure);
                let cause = FailureCause::Operator {
                    operator: at.to_string(),
                    instance: 0,
                    position: 1,
                    message: "broken".into(),
                };
                TaskEvent::Failed { cause, report }
            }
        };
        self.tell_of(at, event);
    }

    /// Whether the deadline of this service's stop has not passed.
    fn is_awaited(&self, service: usize) -> bool {
        self.deadlines.get(&Deadline::Service(service_id(service))) != Some(&false)
    }

    fn note_first(&mut self, first: First) {
        if first == First::Failure && self.may_begin_anew() {
            self.anew = true;
        } else if first == First::Failure && self.anew {
            // The attempt has failed already.
        } else if self.first.is_none() && self.machine.state() != JobState::StoppingServices {
            let idle = self.machine.state() == JobState::Idle;
            self.first = Some(if idle && first != First::Failure { First::CancelWhileIdle } else { first });
        }
    }

    /// Whether a failure now has the job begin anew.
    fn may_begin_anew(&self) -> bool {
        self.first.is_none() && !self.anew && !self.stopped && self.sealed.is_none() && self.restarts_left > 0
    }

    pub(super) fn tell_of(&mut self, task: usize, event: TaskEvent) {
        self.tell(Event::Task { attempt: self.machine.attempt(), task: task_id(task), event });
    }

    /// Hands the machine an event, and obeys.
    pub(super) fn tell(&mut self, event: Event) {
        self.tell_at(event, Duration::ZERO);
    }

    fn tell_at(&mut self, event: Event, at: Duration) {
        let before = self.visible();
        let commands = self.machine.apply(event, at).expect("only a pause can be refused, and none is asked for then");
        if self.visible() != before && self.machine.version == 0 {
            self.faults.insert(Fault::SilentChange);
        }
        // A version that tells how the job got here would make each state many.
        self.machine.version = 0;
        self.machine.now = Duration::ZERO;
        self.was_idle |= self.machine.state() == JobState::Idle;
        if self.earned.is_none() {
            self.earned = self.machine.verdict().cloned();
        }
        for command in commands {
            self.obey(command);
        }
        if self.ended != (self.machine.state() == JobState::Ended) {
            self.faults.insert(Fault::AfterEnd);
        }
    }

    fn visible(&self) -> impl PartialEq + use<> {
        let machine = &self.machine;
        let tasks: Vec<_> = (0..self.tasks.len()).map(|at| machine.task_state(task_id(at))).collect();
        let services: Vec<_> = (0..self.services.len()).map(|at| machine.service_state(service_id(at))).collect();
        let counts = (machine.live_tasks(), machine.live_services(), machine.restarts(), machine.warnings().len());
        (machine.state(), machine.outcome().cloned(), tasks, services, counts, machine.stopping_service())
    }
}
