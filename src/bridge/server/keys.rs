//! The keys of the node, as its admins change them, and whose the jobs are.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::Server;
use crate::{
    bridge::{
        connection::say_goodbye,
        key::{Key, KeyId},
        message::{FromClient, Goodbye},
    },
    job::JobId,
    link::{JobRequest, KeyRingRefusal, Refusal, Reply, Request},
};

/// From how many jobs of submitters on those are forgotten that the node does not know any more.
const OWNERS_KEPT: usize = 4_096;

/// A job that was claimed so recently may be about to be submitted.
const CLAIM_AGE: Duration = Duration::from_secs(60);

/// With which key the jobs of submitters came.
#[derive(Default)]
pub(super) struct Owners {
    jobs: HashMap<JobId, (KeyId, Instant)>,
    /// How many there may be before they are looked through.
    looked_through_at: usize,
}

impl Server {
    pub(super) fn owner_of(&self, job: JobId) -> Option<KeyId> {
        self.state.lock().owners.jobs.get(&job).map(|(key, _)| *key)
    }

    /// The job that is about to be submitted is this key's from now on.
    ///
    /// # Errors
    ///
    /// It is somebody else's.
    pub(super) async fn claim(&self, job: JobId, key: KeyId) -> Result<(), Refusal> {
        match self.owner_of(job) {
            Some(owner) if owner == key => return Ok(()),
            Some(_) => return Err(Refusal::NoSuchJob { id: job }),
            None => {}
        }
        // Admins' jobs have no owner.
        match self.host.ask(Request::Job { job, request: JobRequest::JobStatus }).await {
            Ok(_) => return Err(Refusal::NoSuchJob { id: job }),
            Err(Refusal::NoSuchJob { .. } | Refusal::Expired { .. }) => {}
            // Whether there is such a job is not known.
            Err(refusal) => return Err(refusal),
        }
        let is_full = {
            let owners = &self.state.lock().owners;
            owners.jobs.len() >= owners.looked_through_at.max(OWNERS_KEPT)
        };
        let known = if is_full { self.host.ask(Request::ListJobs).await.ok() } else { None };
        let owners = &mut self.state.lock().owners;
        if let Some(Reply::Jobs(known)) = known {
            let known: std::collections::HashSet<JobId> = known.into_iter().map(|status| status.id).collect();
            owners.jobs.retain(|job, (_, claimed)| claimed.elapsed() < CLAIM_AGE || known.contains(job));
            owners.looked_through_at = 2 * owners.jobs.len();
        }
        match owners.jobs.entry(job).or_insert((key, Instant::now())) {
            (owner, _) if *owner == key => Ok(()),
            _ => Err(Refusal::NoSuchJob { id: job }),
        }
    }

    /// Does what an admin says of the keys.
    pub(super) fn change_keys(&self, said: FromClient) -> Result<Reply, Refusal> {
        let keys = &self.config.keys;
        match said {
            FromClient::AddKey { name, role, secret } => {
                let unfit = |_| Refusal::Internal("the secret of a key is too short or too long".to_owned());
                let key = Key::from_bytes(&secret).map_err(unfit)?;
                keys.add(&name, role, key).map(Reply::KeyAdded).map_err(Refusal::KeyRing)
            }
            FromClient::RevokeKey { name } => self.revoke(&name).map(Reply::Done).map_err(Refusal::KeyRing),
            _ => Ok(Reply::Keys(keys.list())),
        }
    }

    /// Takes a key away, and ends the sessions of those who have it.
    fn revoke(&self, name: &str) -> Result<(), KeyRingRefusal> {
        let revoked = self.config.keys.revoke(name)?;
        let sessions: Vec<_> = {
            let state = self.state.lock();
            state.sessions.iter().filter(|((key, _), _)| *key == revoked).map(|(_, entry)| entry.clone()).collect()
        };
        for session in sessions {
            say_goodbye(&session.outbound, &Goodbye::KeyRevoked);
            // Whether it is read or not: nothing more is done for it.
            session.outbound.flush();
            session.dismissed.notify_one();
        }
        Ok(())
    }
}
