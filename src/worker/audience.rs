//! Which tasks hear which command.

use crate::{
    job::{Graph, TaskId},
    protocol::{Audience, TaskCommand},
};

/// The tasks of each loop and each pipeline service of a job.
pub(super) struct Audiences {
    loops: Vec<Vec<TaskId>>,
    services: Vec<Vec<TaskId>>,
}

impl Audiences {
    pub fn of(graph: &Graph) -> Self {
        let mut services = vec![Vec::new(); graph.services.len()];
        for task in &graph.tasks {
            if let Some(service) = task.service {
                services[service.index()].push(task.id);
            }
        }
        Self { loops: graph.loops.clone(), services }
    }

    /// The tasks that are to hear `command`; `None` for all of the job.
    pub fn hears(&self, command: TaskCommand) -> Option<&[TaskId]> {
        let (groups, index) = match command.audience() {
            Audience::All => return None,
            Audience::Loop(id) => (&self.loops, id.index()),
            Audience::Service(service) => (&self.services, service.index()),
        };
        Some(groups.get(index).map_or(&[], Vec::as_slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::{ServiceId, TaskNode},
        protocol::LoopId,
    };

    fn node(id: u32, service: Option<ServiceId>) -> TaskNode {
        TaskNode {
            id: TaskId(id),
            name: format!("t{id}"),
            instance: 0,
            operators: Vec::new(),
            is_source: false,
            input: None,
            outputs: Vec::new(),
            service,
        }
    }

    /// A question about a loop of three tasks went to all thousand of the job.
    #[test]
    fn what_concerns_a_loop_or_a_service_goes_to_its_tasks_only() {
        let graph = Graph {
            tasks: (0..1_000).map(|id| node(id, (id % 250 == 7).then_some(ServiceId(0)))).collect(),
            services: vec!["asked".to_owned()],
            loops: vec![[3, 4, 5].map(TaskId).to_vec()],
            ..Graph::default()
        };
        let audiences = Audiences::of(&graph);
        let (id, service) = (LoopId(0), ServiceId(0));
        for command in [
            TaskCommand::Scan { id, wave: 1 },
            TaskCommand::EndLoop { id },
            TaskCommand::CloseLoop { id },
            TaskCommand::CutLoop { id },
        ] {
            assert_eq!(audiences.hears(command), Some([3, 4, 5].map(TaskId).as_slice()));
        }
        for command in [TaskCommand::EndRequests { service }, TaskCommand::CancelRequests { service }] {
            assert_eq!(audiences.hears(command), Some([7, 257, 507, 757].map(TaskId).as_slice()));
        }
        for command in [TaskCommand::Stop, TaskCommand::Cancel, TaskCommand::Hold { epoch: 1 }, TaskCommand::Resume] {
            assert_eq!(audiences.hears(command), None);
        }
    }
}
