//! The workers that host an attempt of a job, as its Dispatcher and its JobSupervisor speak to them.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use futures::future::{BoxFuture, join_all};

use super::placement::Stay;
use crate::{
    job::{Incarnation, JobId, ServiceId, TaskId},
    link::{WorkerId, WorkerLink},
    protocol::{Layout, Order, Progress, WorkerOrder},
};

/// One of a team.
#[derive(Clone)]
pub(crate) struct Member {
    /// None for the worker of this process.
    pub id: Option<WorkerId>,
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    pub link: Arc<dyn WorkerLink>,
    /// Held for as long as the worker has something of the job; none for the worker of this process.
    #[expect(dead_code, reason = "held for its drop")]
    pub stay: Option<Rc<Stay>>,
}

/// The numbers of the members that have the tasks and the services; shorter if home has the rest.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub tasks: Vec<u32>,
    pub services: Vec<u32>,
}

/// The team of the attempt to come, from the Dispatcher to the JobSupervisor, which are on one thread.
#[derive(Default)]
pub(crate) struct Deployment {
    next: RefCell<Option<Rc<Team>>>,
}

impl Deployment {
    pub fn set_next(&self, team: Rc<Team>) {
        *self.next.borrow_mut() = Some(team);
    }

    pub fn take_next(&self) -> Option<Rc<Team>> {
        self.next.borrow_mut().take()
    }
}

/// Those who host an attempt. The first is [home](Layout::HOME).
pub(crate) struct Team {
    members: Vec<Member>,
    places: Places,
    /// By member. It hears nothing more, and nothing is expected of it.
    lost: RefCell<Vec<bool>>,
}

impl Team {
    /// # Panics
    ///
    /// Panics if there is nobody.
    pub fn new(members: Vec<Member>, places: Places) -> Rc<Self> {
        assert!(!members.is_empty(), "a team has a home");
        let lost = RefCell::new(vec![false; members.len()]);
        Rc::new(Self { members, places, lost })
    }

    /// Home alone.
    pub fn at_home(&self) -> Rc<Self> {
        Self::new(self.members[..1].to_vec(), Places::default())
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The number of the member that has the task.
    pub fn place_of(&self, task: TaskId) -> u32 {
        self.places.tasks.get(task.index()).copied().unwrap_or(Layout::HOME)
    }

    /// By task, the name of the worker that has it, if it is not the one of this process.
    pub fn workers(&self) -> Vec<Option<String>> {
        self.names(&self.places.tasks)
    }

    /// As [`workers`](Self::workers), by service.
    pub fn service_workers(&self) -> Vec<Option<String>> {
        self.names(&self.places.services)
    }

    fn names(&self, places: &[u32]) -> Vec<Option<String>> {
        let name = |place: &u32| self.members.get(*place as usize).filter(|member| member.id.is_some());
        if self.members.len() == 1 {
            return Vec::new();
        }
        places.iter().map(|place| name(place).map(|member| member.name.clone())).collect()
    }

    /// What the member of this number has to know of the others.
    pub fn layout(&self, here: u32) -> Layout {
        Layout { here, tasks: self.places.tasks.clone(), services: self.places.services.clone() }
    }

    /// The tasks of the member of this number.
    pub fn tasks_of(&self, member: u32) -> Vec<TaskId> {
        let tasks = (0..).map(TaskId).zip(&self.places.tasks);
        tasks.filter(|(_, place)| **place == member).map(|(task, _)| task).collect()
    }

    /// The services whose instances run at the member of this number.
    pub fn services_of(&self, member: u32) -> Vec<ServiceId> {
        let services = (0..).map(ServiceId).zip(&self.places.services);
        services.filter(|(_, place)| **place == member).map(|(service, _)| service).collect()
    }

    /// The number of this worker, if it is one of the team and was not lost before. It is from now on.
    pub fn lose(&self, worker: WorkerId) -> Option<u32> {
        let number = self.members.iter().position(|member| member.id == Some(worker))?;
        let was_lost = std::mem::replace(&mut self.lost.borrow_mut()[number], true);
        (!was_lost).then(|| u32::try_from(number).expect("there are few workers"))
    }

    fn present(&self) -> impl Iterator<Item = (u32, &Member)> {
        let members = (0..).zip(&self.members);
        members.filter(|(number, _)| !self.lost.borrow()[*number as usize])
    }

    /// Tells one of the team; nothing, if it was lost.
    pub fn tell(&self, member: u32, order: Order) {
        let found = self.present().find(|(number, _)| *number == member);
        if let Some((_, member)) = found {
            member.link.order(order);
        }
    }

    /// Has an order carried out by those whom it concerns. To start tasks is for each member [on its own](Self::tell).
    pub fn order(&self, order: Order) {
        let Order { job, term, order } = order;
        match order {
            WorkerOrder::CloseGates | WorkerOrder::StartTasks { .. } => {
                self.tell(Layout::HOME, Order { job, term, order });
            }
            // Home has the gate, another one perhaps the instance.
            WorkerOrder::StartService { service, .. }
            | WorkerOrder::StopService { service, .. }
            | WorkerOrder::RefuseCalls { service }
            | WorkerOrder::AbandonService { service, .. }
            | WorkerOrder::DismissService { service, .. } => {
                let place = self.places.services.get(service.index()).copied().unwrap_or(Layout::HOME);
                let at_home = match order {
                    // The thread that does not come back is not one of home.
                    WorkerOrder::AbandonService { is_final: true, .. } if place != Layout::HOME => {
                        WorkerOrder::RefuseCalls { service }
                    }
                    // Nor does what stands in for the instance ask which one it is.
                    WorkerOrder::AbandonService { .. } if place != Layout::HOME => {
                        WorkerOrder::DismissService { service, incarnation: Incarnation(0) }
                    }
                    _ => order.clone(),
                };
                self.tell(Layout::HOME, Order { job, term, order: at_home });
                if place != Layout::HOME {
                    self.tell(place, Order { job, term, order });
                }
            }
            // Home keeps what lives as long as the job; the others have nothing of that.
            WorkerOrder::EndAttempt => {
                for (number, member) in self.present() {
                    let order = if number == Layout::HOME { WorkerOrder::EndAttempt } else { WorkerOrder::Release };
                    member.link.order(Order { job, term, order });
                }
            }
            WorkerOrder::AbandonTasks { tasks } => {
                for (number, member) in self.present() {
                    let here = |task: &TaskId| self.place_of(*task) == number;
                    let tasks: Vec<TaskId> = tasks.iter().copied().filter(here).collect();
                    if !tasks.is_empty() {
                        member.link.order(Order { job, term, order: WorkerOrder::AbandonTasks { tasks } });
                    }
                }
            }
            WorkerOrder::DropTasks | WorkerOrder::CommandTasks { .. } | WorkerOrder::Release => {
                for (_, member) in self.present() {
                    member.link.order(Order { job, term, order: order.clone() });
                }
            }
        }
    }

    /// What the counters of the job read on all workers.
    pub fn progress(&self, job: JobId) -> BoxFuture<'static, Progress> {
        if let [home] = self.members.as_slice() {
            return home.link.progress(job);
        }
        let all = join_all(self.present().map(|(_, member)| member.link.progress(job)));
        Box::pin(async move {
            let mut progress = Progress::default();
            for Progress { tasks, services, services_held } in all.await {
                progress.tasks.extend(tasks);
                progress.services_held.extend(services_held);
                for counts in services {
                    match progress.services.iter_mut().find(|known| known.service == counts.service) {
                        Some(known) => known.join(&counts),
                        None => progress.services.push(counts),
                    }
                }
            }
            progress.tasks.sort_by_key(|(task, ..)| *task);
            progress
        })
    }
}
