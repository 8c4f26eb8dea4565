//! What a client may do, by the role of its key.

use std::{
    future::ready,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::BoxFuture;

use super::{say::say, state::Server};
use crate::{
    bridge::{
        frame::Message,
        key::KeyId,
        keyring::Identity,
        message::{FromClient, FromNode, InputFault, OutputFault, RouteFault},
        outbound::Outbound,
    },
    host::Host,
    job::JobId,
    link::{JobRequest, KeyRole, NearLink, Refusal, Reply, Request},
    port::{InputError, OutputError},
    service::{CallError, FoundService, ServiceResolver},
};

/// What stands in the way of what a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Its role does not have that right.
    Forbidden(String),
    /// The job is another key's: to this one it is as if it did not exist.
    NoSuchJob(JobId),
}

/// The rights of one client.
#[derive(Debug, Clone)]
pub(super) struct Access(pub Identity);

impl Access {
    pub(super) fn key(&self) -> KeyId {
        self.0.id
    }

    /// Whether everything that is asked is answered alike, whoever asked.
    pub(super) fn is_unlimited(&self) -> bool {
        self.0.role == KeyRole::Admin
    }

    /// Whether the client may take items away from other readers.
    pub(super) fn may_consume(&self) -> bool {
        self.0.role != KeyRole::Reader
    }

    /// Whether a job does not expire, nor end by its lease, while the client has a handle to it.
    pub(super) fn may_hold(&self) -> bool {
        self.0.role != KeyRole::Reader
    }

    /// How many clients there may be for this one to be taken in, of `max`. An eighth is kept for those who have the
    /// node's own key: other keys could else keep out whoever is to revoke them.
    pub(super) fn connections_max(&self, max: usize) -> usize {
        if self.is_unlimited() { max } else { max - max / 8 }
    }

    /// What leads the references that the client sends to their services.
    pub(super) fn resolver(&self, server: &Arc<Server>) -> Arc<dyn ServiceResolver> {
        let link = Arc::clone(&server.link);
        if self.is_unlimited() {
            return link;
        }
        Arc::new(OwnServices { server: Arc::downgrade(server), link, key: self.key() })
    }

    pub(super) fn forbids(&self, what: &str) -> String {
        let Identity { role, name, .. } = &self.0;
        let may = match role {
            KeyRole::Admin => "may do everything",
            KeyRole::Reader => "may look at jobs and read collected outputs",
            KeyRole::Submitter => "may submit jobs, and has the use of those alone",
            KeyRole::Worker => "may run tasks, and ask for nothing",
        };
        format!("the key `{name}` may not {what}: a {role} {may}")
    }

    fn forbidden(&self, what: &str) -> Result<(), Obstacle> {
        Err(Obstacle::Forbidden(self.forbids(what)))
    }

    /// Whether the client may say this.
    pub(super) fn check(&self, server: &Server, said: &FromClient) -> Result<(), Obstacle> {
        let role = self.0.role;
        let own = |job: JobId| match role {
            KeyRole::Submitter if server.owner_of(job) != Some(self.0.id) => Err(Obstacle::NoSuchJob(job)),
            _ => Ok(()),
        };
        match said {
            FromClient::Worker(_) if role == KeyRole::Worker => Ok(()),
            FromClient::Worker(_) => self.forbidden("join as a worker"),
            _ if role == KeyRole::Worker => self.forbidden("do what clients do"),
            _ if role == KeyRole::Admin => Ok(()),
            FromClient::Ask(Request::Job { job, request }) => match request {
                JobRequest::Control(_) if role == KeyRole::Reader => self.forbidden("control jobs"),
                JobRequest::DeleteJob { .. } if role == KeyRole::Reader => self.forbidden("delete jobs"),
                _ => own(*job),
            },
            FromClient::Ask(Request::Cleanup) => self.forbidden("clean up"),
            FromClient::Ask(Request::DrainWorker { .. }) => self.forbidden("drain workers"),
            FromClient::Ask(Request::ListJobs | Request::Health | Request::Info | Request::ListWorkers) => Ok(()),
            FromClient::Submit { .. } if role == KeyRole::Reader => self.forbidden("submit jobs"),
            FromClient::Submit { .. } => Ok(()),
            FromClient::StopNode(_) => self.forbidden("stop the node"),
            FromClient::ListKeys | FromClient::AddKey { .. } | FromClient::RevokeKey { .. } => {
                self.forbidden("see or change the node's keys")
            }
            FromClient::OpenRoute(_) if role == KeyRole::Reader => self.forbidden("call services"),
            FromClient::OpenRoute(open) => own(open.job),
            FromClient::OpenInput { .. } if role == KeyRole::Reader => self.forbidden("send to inputs"),
            FromClient::OpenInput { job, .. } | FromClient::OpenOutput { job, .. } => own(*job),
            // What these are about was opened before.
            FromClient::Forget
            | FromClient::CloseRoute
            | FromClient::Withdraw
            | FromClient::OutputCredit { .. }
            | FromClient::CloseOutput { .. }
            | FromClient::FinishInput
            | FromClient::CloseInput => Ok(()),
        }
    }

    /// Leaves of an answer what the client may see.
    pub(super) fn reduce(&self, server: &Server, reply: &mut Reply) {
        if let Reply::Jobs(jobs) = reply
            && self.0.role == KeyRole::Submitter
        {
            jobs.retain(|job| server.owner_of(job.id) == Some(self.0.id));
        }
    }
}

/// To what references are bound that a submitter sends, in messages and in the parameters of jobs: to services of its own
/// jobs. The node's code, which uses them, could else be made to call those of others.
struct OwnServices {
    /// Not kept: a reference may outlive the node.
    server: Weak<Server>,
    link: Arc<dyn NearLink>,
    key: KeyId,
}

impl ServiceResolver for OwnServices {
    fn service(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        match self.server.upgrade() {
            Some(server) if server.owner_of(job) == Some(self.key) => self.link.service(job, name),
            Some(_) => Box::pin(ready(Err(CallError::NoSuchJob { job }))),
            None => Box::pin(ready(Err(CallError::EnvironmentClosed))),
        }
    }

    fn host(&self) -> &Host {
        self.link.host()
    }

    fn call_deadline(&self) -> Duration {
        self.link.call_deadline()
    }
}

/// Answers what was not allowed in the way in which it would have been answered.
pub(super) fn refuse(outbound: &Outbound, message: &Message<'_>, said: &FromClient, obstacle: Obstacle) {
    let answer = match said {
        FromClient::OpenRoute(_) => FromNode::RouteOpened(Err(RouteFault::Refused(match obstacle {
            Obstacle::Forbidden(message) => CallError::Forbidden { message },
            Obstacle::NoSuchJob(job) => CallError::NoSuchJob { job },
        }))),
        FromClient::OpenOutput { .. } => FromNode::OutputOpened(Err(OutputFault::Refused(match obstacle {
            Obstacle::Forbidden(message) => OutputError::Forbidden { message },
            Obstacle::NoSuchJob(id) => OutputError::NoSuchJob { id },
        }))),
        FromClient::OpenInput { .. } => FromNode::InputOpened(Err(InputFault::Refused(match obstacle {
            Obstacle::Forbidden(message) => InputError::Forbidden { message },
            Obstacle::NoSuchJob(id) => InputError::NoSuchJob { id },
        }))),
        _ => FromNode::Reply(Err(match obstacle {
            Obstacle::Forbidden(message) => Refusal::Forbidden { message },
            Obstacle::NoSuchJob(id) => Refusal::NoSuchJob { id },
        })),
    };
    say(outbound, message.id, &answer);
}
