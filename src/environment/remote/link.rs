//! The link to a JobManager on a node.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::{
    bridge::{Client, PARAMETERS_BYTES_MAX},
    environment::interrupts,
    host::Host,
    job::{JobId, JobRefusal, NotSendable},
    link::{Link, Opened, Refusal, Reply, Request, SubmitJob},
    port::{ChunkSource, FoundInput, InputError, InputResolver, OutputError, OutputResolver},
    schema::TypeDescription,
    service::{CallError, FoundService, ServiceResolver},
};

/// The link to a JobManager on a node: the client that keeps the connection. It does not keep it open.
pub(super) struct RemoteLink {
    environment: String,
    client: Client,
}

impl RemoteLink {
    pub(super) fn new(environment: String, client: Client) -> Self {
        Self { environment, client }
    }
}

impl Link for RemoteLink {
    fn environment(&self) -> &str {
        &self.environment
    }

    fn submit(&self, submit: SubmitJob) -> BoxFuture<'static, Result<Opened, Refusal>> {
        let SubmitJob { id, options, payload } = submit;
        let description = payload.0.describe();
        let encoded = payload.0.encode().and_then(|job| match job.parameters.len() {
            0..=PARAMETERS_BYTES_MAX => Ok(job),
            bytes => {
                let message = format!("they take {bytes} bytes, and may take {PARAMETERS_BYTES_MAX}");
                Err(NotSendable::Encode { job: job.name, message })
            }
        });
        let client = self.client.clone();
        Box::pin(async move {
            let job = encoded.map_err(Refusal::NotSendable)?;
            match client.submit(id, options, job).await {
                Ok(Reply::Opened(opened)) => Ok(opened),
                Ok(other) => Err(Refusal::Internal(format!("{other:?} does not answer what was asked"))),
                Err(Refusal::Job(JobRefusal::TypeDiffers { name, there })) => {
                    let difference = description.map_or_else(|| there.text(), |here| here.difference(&there));
                    Err(Refusal::JobTypeDiffers { job: name, difference })
                }
                Err(refusal) => Err(refusal),
            }
        })
    }

    fn ask(&self, request: Request) -> BoxFuture<'static, Result<Reply, Refusal>> {
        self.client.ask(request)
    }

    fn interrupts(&self) -> BoxFuture<'static, mpsc::Receiver<()>> {
        interrupts::listen(self.client.runtime())
    }
}

impl ServiceResolver for RemoteLink {
    fn service(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        // Whether there is one shows when a route to it is opened, which the first message does.
        let found = FoundService::Remote(self.client.service(job, name));
        Box::pin(std::future::ready(Ok(found)))
    }

    fn host(&self) -> &Host {
        self.client.host()
    }

    fn call_deadline(&self) -> Duration {
        self.client.call_deadline()
    }
}

impl OutputResolver for RemoteLink {
    fn output(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<Box<dyn ChunkSource>, OutputError>> {
        self.client.output(job, name, wanted)
    }
}

impl InputResolver for RemoteLink {
    fn input(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<FoundInput, InputError>> {
        let input = self.client.input(job, name, wanted);
        Box::pin(async move { input.await.map(FoundInput::Remote) })
    }
}
