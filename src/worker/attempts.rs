//! What is left of a job between two of its attempts.

use std::{collections::BTreeMap, sync::Arc};

use super::{Hosted, Worker, audience::Audiences, team::HomeEnds};
use crate::{
    job::{Attempt, JobId},
    link::{Place, Unprepared},
};

impl Worker {
    /// The ports of a job that begins anew are those that it has had. To home `has_splits` where they were made for an attempt
    /// before.
    ///
    /// # Errors
    ///
    /// The job has ended meanwhile.
    pub(super) fn kept_ports(
        &self,
        job: JobId,
        place: Place,
        has_splits: bool,
    ) -> Result<Option<HomeEnds>, Unprepared> {
        if place == Place::Away {
            return Ok(None);
        }
        match self.jobs.get(&job) {
            Some(hosted) => Ok(hosted.home.clone()),
            None if has_splits => Err(Unprepared::Gone),
            None => Ok(None),
        }
    }

    /// Forgets the attempt, and keeps what lives as long as the job.
    pub(super) fn end_attempt(&mut self, job: JobId, attempt: Attempt) {
        let Some(hosted) = self.jobs.get_mut(&job) else { return };
        for service in hosted.services.values() {
            service.recipe.leave_gate();
            // What is left of it, here or in another process, has no say any more.
            service.recipe.forget_instance();
        }
        let empty = Hosted {
            term: hosted.term,
            fence: hosted.fence.clone(),
            is_between: true,
            limits: Arc::clone(&hosted.limits),
            events: Arc::clone(&hosted.events),
            settled_events: Arc::clone(&hosted.events),
            unlaid: None,
            attendance: None,
            unstarted: None,
            early: Vec::new(),
            tasks: Vec::new(),
            audiences: Audiences::of(&hosted.graph),
            services: BTreeMap::new(),
            home: hosted.home.clone(),
            graph: Arc::clone(&hosted.graph),
        };
        let ended = std::mem::replace(hosted, empty);
        let mut left = Vec::new();
        if let Some(home) = &hosted.home {
            let next = Attempt(attempt.0 + 1);
            home.ports.streams.outputs.iter().for_each(|(_, output)| output.begin_attempt(next));
            left.extend(home.gates.iter().map(|gate| gate.begin_attempt()));
        }
        // Values of the user's are in all of it.
        self.config.host.blocking(move || {
            drop(ended);
            left.into_iter().for_each(|left| left());
        });
    }
}
