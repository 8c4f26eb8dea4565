//! The link to a JobManager in this process.

use std::{future::ready, sync::Arc, time::Duration};

use actix::{Addr, Handler, Message};
use futures::{TryFutureExt, future::BoxFuture};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use crate::{
    environment::interrupts,
    host::Host,
    job::{JobId, check_name},
    link::{Departure, Link, NearLink, Opened, Refusal, Reply, Request, SubmitJob, WorkerFacts, WorkerId, WorkerLink},
    manager::{self, Close, DrainWorker, FindPorts, JobManager, JoinWorker, LoseWorker, Ports},
    port::{AnyInput, ChunkSource, FoundInput, InputError, InputResolver, OutputError, OutputResolver, OutputStore},
    schema::TypeDescription,
    service::{AnyGate, CallError, FoundService, ServiceResolver},
};

/// Requests that wait in front of the JobManager at most; beyond them clients wait.
const REQUESTS_MAX: usize = 1024;

/// The link to a JobManager in this process: its actor address. It does not keep the environment open.
pub(super) struct LocalLink {
    environment: Arc<str>,
    manager: Addr<JobManager>,
    /// Room in the manager's mailbox; see [`REQUESTS_MAX`].
    room: Arc<Semaphore>,
    host: Host,
    call_deadline: Duration,
    /// That of the control thread.
    runtime: Handle,
}

impl LocalLink {
    pub(super) fn new(
        environment: Arc<str>,
        manager: Addr<JobManager>,
        host: Host,
        call_deadline: Duration,
        runtime: Handle,
    ) -> Self {
        Self { environment, manager, room: Arc::new(Semaphore::new(REQUESTS_MAX)), host, call_deadline, runtime }
    }

    /// Has the JobManager close. Past the mailbox's bound, since it must work whatever else is going on, and to repeat
    /// it changes nothing.
    pub(super) fn close(&self) {
        self.manager.do_send(Close);
    }

    /// Sends a message to the JobManager once there is room, and awaits its answer.
    fn send<M, T>(
        &self,
        message: impl FnOnce(OwnedSemaphorePermit) -> M + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Refusal>>
    where
        M: Message<Result = Result<T, Refusal>> + Send + 'static,
        T: Send + 'static,
        JobManager: Handler<M>,
    {
        // A clone of the address always has room of its own in actix, which never wakes a sender that waits for it.
        let (manager, room) = (self.manager.clone(), Arc::clone(&self.room));
        Box::pin(async move {
            let Ok(room) = room.acquire_owned().await else { return Err(Refusal::EnvironmentClosed) };
            let answer = manager.send(message(room));
            drop(manager);
            answer.await.unwrap_or(Err(Refusal::EnvironmentClosed))
        })
    }

    fn ports(&self, job: JobId) -> BoxFuture<'static, Result<Ports, Refusal>> {
        self.send(move |room| FindPorts { job, room })
    }
}

impl Link for LocalLink {
    fn environment(&self) -> &str {
        &self.environment
    }

    fn submit(&self, submit: SubmitJob) -> BoxFuture<'static, Result<Opened, Refusal>> {
        let (named, job_type) = (submit.options.name.as_deref(), submit.payload.0.name());
        let checked = check_name("the job", named.unwrap_or("")).and_then(|()| check_name("the job's type", job_type));
        if let Err(refusal) = checked {
            return Box::pin(ready(Err(Refusal::Build(refusal))));
        }
        self.send(move |room| manager::Submit { submit, room })
    }

    fn ask(&self, request: Request) -> BoxFuture<'static, Result<Reply, Refusal>> {
        self.send(move |room| manager::Ask { request, room })
    }

    fn interrupts(&self) -> BoxFuture<'static, mpsc::Receiver<()>> {
        interrupts::listen(&self.runtime)
    }
}

impl ServiceResolver for LocalLink {
    fn service(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        Box::pin(self.gate(job, name).map_ok(FoundService::Gate))
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn call_deadline(&self) -> Duration {
        self.call_deadline
    }
}

impl OutputResolver for LocalLink {
    fn output(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<Box<dyn ChunkSource>, OutputError>> {
        let store = self.store(job, name);
        Box::pin(async move { Ok(Box::new(store.await?.reader(&wanted)?) as Box<dyn ChunkSource>) })
    }
}

impl InputResolver for LocalLink {
    fn input(
        &self,
        job: JobId,
        name: &str,
        _: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<FoundInput, InputError>> {
        Box::pin(self.port(job, name).map_ok(FoundInput::Port))
    }
}

impl NearLink for LocalLink {
    fn gate(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<Arc<dyn AnyGate>, CallError>> {
        let (ports, service) = (self.ports(job), name.to_owned());
        Box::pin(async move {
            match ports.await {
                Ok(Ports::Live(ports)) => ports.directory.gate(&service),
                Ok(Ports::Ended(ended)) if let Some(reason) = ended.lost() => Err(CallError::JobLost { job, reason }),
                Ok(Ports::Ended(ended)) if ended.plain.graph.services.contains(&service) => {
                    Err(CallError::JobEnded { job })
                }
                Ok(Ports::Ended(ended)) => {
                    Err(CallError::NoSuchService { service, existing: ended.plain.graph.services.clone() })
                }
                Err(Refusal::NoSuchJob { id }) => Err(CallError::NoSuchJob { job: id }),
                Err(Refusal::Expired { id }) => Err(CallError::Expired { job: id }),
                // To find the ports of a job is refused for no other reason.
                Err(_) => Err(CallError::EnvironmentClosed),
            }
        })
    }

    fn store(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<Arc<OutputStore>, OutputError>> {
        let (ports, output) = (self.ports(job), name.to_owned());
        Box::pin(async move {
            let ports = ports.await;
            let outputs = match &ports {
                Ok(Ports::Live(ports)) => &ports.streams.outputs,
                Ok(Ports::Ended(ended)) => match &ended.outputs {
                    Some(outputs) => outputs,
                    None => {
                        let gone = OutputError::Gone { id: job };
                        return Err(ended.lost().map_or(gone, |reason| OutputError::JobLost { id: job, reason }));
                    }
                },
                Err(Refusal::NoSuchJob { id }) => return Err(OutputError::NoSuchJob { id: *id }),
                Err(Refusal::Expired { id }) => return Err(OutputError::Expired { id: *id }),
                Err(_) => return Err(OutputError::EnvironmentClosed),
            };
            let found = outputs.iter().find(|(name, _)| *name == output).map(|(_, store)| Arc::clone(store));
            found.ok_or_else(|| OutputError::NoSuchOutput {
                output,
                existing: outputs.iter().map(|(name, _)| name.clone()).collect(),
            })
        })
    }

    fn join(&self, facts: WorkerFacts, link: Arc<dyn WorkerLink>) -> BoxFuture<'static, Result<WorkerId, Refusal>> {
        self.send(move |room| JoinWorker { facts, link, room })
    }

    fn leave(&self, worker: WorkerId, why: String, departure: Departure) {
        // Past the mailbox's bound: there is one for each worker that joined.
        self.manager.do_send(LoseWorker { worker, why, departure });
    }

    fn drain(&self, worker: WorkerId) {
        // As for `leave`.
        self.manager.do_send(DrainWorker { worker });
    }

    fn port(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<Arc<dyn AnyInput>, InputError>> {
        let (ports, input) = (self.ports(job), name.to_owned());
        Box::pin(async move {
            match ports.await {
                Ok(Ports::Live(ports)) => {
                    let inputs = &ports.streams.inputs;
                    let found = inputs.iter().find(|(name, _)| *name == input).map(|(_, port)| Arc::clone(port));
                    found.ok_or_else(|| InputError::NoSuchInput {
                        input,
                        existing: inputs.iter().map(|(name, _)| name.clone()).collect(),
                    })
                }
                Ok(Ports::Ended(ended)) if let Some(reason) = ended.lost() => {
                    Err(InputError::JobLost { id: job, reason })
                }
                Ok(Ports::Ended(ended)) if ended.plain.inputs_finished.contains(&input) => {
                    Err(InputError::Finished { input })
                }
                Ok(Ports::Ended(ended)) if ended.plain.graph.inputs.contains(&input) => {
                    Err(InputError::Closed { input })
                }
                Ok(Ports::Ended(ended)) => {
                    Err(InputError::NoSuchInput { input, existing: ended.plain.graph.inputs.clone() })
                }
                Err(Refusal::NoSuchJob { id }) => Err(InputError::NoSuchJob { id }),
                Err(Refusal::Expired { id }) => Err(InputError::Expired { id }),
                Err(_) => Err(InputError::EnvironmentClosed),
            }
        })
    }
}
