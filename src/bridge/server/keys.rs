//! The keys of the node, as its admins change them, and whose the jobs are.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::state::Server;
use crate::{
    bridge::{
        connection::say_goodbye,
        key::{Key, KeyId},
        keyring::Identity,
        message::{FromClient, Goodbye},
    },
    job::{JobId, JobState, JobStatus},
    link::{JobRequest, KeyRingRefusal, Opened, Refusal, Reply, Request},
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
    /// The jobs of each key that have not ended, as far as it is known: which have is looked at when a key has as many as
    /// it may.
    live: HashMap<KeyId, HashMap<JobId, Stage>>,
}

/// How far a job has come that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It may not have reached the JobManager yet.
    Claimed(Instant),
    /// The JobManager has accepted it.
    Accepted,
}

impl Owners {
    /// The job counts, if the key has fewer than `limit`, or it counts already.
    fn count_in(&mut self, job: JobId, key: KeyId, limit: usize, now: Instant) -> bool {
        let live = self.live.entry(key).or_default();
        if !live.contains_key(&job) && live.len() >= limit {
            return false;
        }
        live.entry(job).or_insert(Stage::Claimed(now));
        true
    }

    fn count_out(&mut self, job: JobId, key: KeyId) {
        if let Some(live) = self.live.get_mut(&key) {
            live.remove(&job);
            if live.is_empty() {
                self.live.remove(&key);
            }
        }
    }

    /// Those that have ended count no more, nor those that the JobManager, which knows `known`, has forgotten.
    fn look_through(&mut self, key: KeyId, known: &[JobStatus], now: Instant) {
        let ended: HashMap<JobId, bool> =
            known.iter().map(|status| (status.id, status.state == JobState::Ended)).collect();
        if let Some(live) = self.live.get_mut(&key) {
            live.retain(|job, stage| match (ended.get(job), stage) {
                (Some(ended), _) => !ended,
                (None, Stage::Claimed(claimed)) => now.saturating_duration_since(*claimed) < CLAIM_AGE,
                (None, Stage::Accepted) => false,
            });
        }
    }
}

/// The place among a key's jobs of one that is about to be submitted. If it goes before that, the place is free again.
pub(super) struct Claim {
    server: Arc<Server>,
    job: JobId,
    key: KeyId,
    /// It was submitted before, or is by now.
    is_settled: bool,
}

impl Claim {
    /// Submits the job. If that is left off half-way, the job may exist, and counts.
    pub(super) async fn follow(
        mut self,
        submit: impl Future<Output = Result<Opened, Refusal>>,
    ) -> Result<Opened, Refusal> {
        let is_repeated = std::mem::replace(&mut self.is_settled, true);
        let submitted = submit.await;
        if !is_repeated {
            let owners = &mut self.server.state.lock().owners;
            match submitted {
                Ok(_) => drop(owners.live.entry(self.key).or_default().insert(self.job, Stage::Accepted)),
                Err(_) => owners.count_out(self.job, self.key),
            }
        }
        submitted
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_settled {
            self.server.state.lock().owners.count_out(self.job, self.key);
        }
    }
}

impl Server {
    pub(super) fn owner_of(&self, job: JobId) -> Option<KeyId> {
        self.state.lock().owners.jobs.get(&job).map(|(key, _)| *key)
    }

    /// The job that is about to be submitted is this key's from now on.
    ///
    /// # Errors
    ///
    /// It is somebody else's, or the key has too many.
    pub(super) async fn claim(self: &Arc<Self>, job: JobId, identity: &Identity) -> Result<Claim, Refusal> {
        let key = identity.id;
        let owner = self.owner_of(job);
        if owner.is_some_and(|owner| owner != key) {
            return Err(Refusal::NoSuchJob { id: job });
        }
        let claimed = |is_settled| Claim { server: Arc::clone(self), job, key, is_settled };
        match (self.link.ask(Request::Job { job, request: JobRequest::JobStatus }).await, owner) {
            (Ok(_) | Err(Refusal::Expired { .. }), Some(_)) => return Ok(claimed(true)),
            // Admins' jobs have no owner.
            (Ok(_), None) => return Err(Refusal::NoSuchJob { id: job }),
            (Err(Refusal::NoSuchJob { .. } | Refusal::Expired { .. }), _) => {}
            // Whether there is such a job is not known.
            (Err(refusal), _) => return Err(refusal),
        }
        self.own(job, key).await?;
        let (limit, now) = (self.config.submitter_jobs_max, self.link.host().now());
        let mut has_place = self.state.lock().owners.count_in(job, key, limit, now);
        if !has_place && let Ok(Reply::Jobs(known)) = self.link.ask(Request::ListJobs).await {
            let owners = &mut self.state.lock().owners;
            owners.look_through(key, &known, now);
            has_place = owners.count_in(job, key, limit, now);
        }
        if has_place { Ok(claimed(false)) } else { Err(Refusal::TooManyJobs { key: identity.name.to_string(), limit }) }
    }

    /// Notes whose a job is that nobody knows yet.
    async fn own(&self, job: JobId, key: KeyId) -> Result<(), Refusal> {
        let is_full = {
            let owners = &self.state.lock().owners;
            owners.jobs.len() >= owners.looked_through_at.max(OWNERS_KEPT)
        };
        let known = if is_full { self.link.ask(Request::ListJobs).await.ok() } else { None };
        let now = self.link.host().now();
        let owners = &mut self.state.lock().owners;
        if let Some(Reply::Jobs(known)) = known {
            let known: std::collections::HashSet<JobId> = known.into_iter().map(|status| status.id).collect();
            owners
                .jobs
                .retain(|job, (_, claimed)| now.saturating_duration_since(*claimed) < CLAIM_AGE || known.contains(job));
            owners.looked_through_at = 2 * owners.jobs.len();
        }
        match owners.jobs.entry(job).or_insert((key, now)) {
            (owner, _) if *owner == key => Ok(()),
            _ => Err(Refusal::NoSuchJob { id: job }),
        }
    }

    /// Does what an admin says of the keys.
    pub(in crate::bridge) fn change_keys(&self, said: FromClient) -> Result<Reply, Refusal> {
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
