//! Following a job by its snapshots.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, future::BoxFuture};

use crate::{
    handle::{JobHandle, QueryError},
    job::{JobState, JobStatus},
    link::{JobRequest, Refusal},
};

/// Snapshots of a job, made by [`JobHandle::watch`]: the first at once, each later one after a change, the last once
/// the job has ended. By notification: nothing is polled at an interval.
///
/// A [`Stream`] for those who use its combinators; [`next`](Self::next) for those who do not.
#[must_use = "nothing is asked until it is polled"]
pub struct Changes {
    job: JobHandle,
    seen: Option<u64>,
    /// Kept over a dropped `next`, so that no snapshot is lost.
    asked: Option<BoxFuture<'static, Result<Box<JobStatus>, Refusal>>>,
    over: bool,
}

impl Changes {
    pub(super) fn new(job: JobHandle) -> Self {
        Self { job, seen: None, asked: None, over: false }
    }

    /// The next snapshot; `None` after the one that has ended, or after an error.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the job is not known any more, or its environment is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no snapshot.
    pub async fn next(&mut self) -> Option<Result<JobStatus, QueryError>> {
        std::future::poll_fn(|cx| self.poll_change(cx)).await
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<JobStatus, QueryError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let (job, after) = (&self.job, self.seen);
        let asked = self.asked.get_or_insert_with(|| Box::pin(job.ask(JobRequest::WatchJob { after })));
        let answer = ready!(asked.as_mut().poll(cx));
        self.asked = None;
        match answer {
            Ok(status) => {
                self.seen = Some(status.version);
                self.over = status.state == JobState::Ended;
                Poll::Ready(Some(Ok(*status)))
            }
            Err(refusal) => {
                self.over = true;
                Poll::Ready(Some(Err(refusal.into())))
            }
        }
    }
}

impl Stream for Changes {
    type Item = Result<JobStatus, QueryError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_change(cx)
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("job", &self.job).field("seen", &self.seen).finish_non_exhaustive()
    }
}
