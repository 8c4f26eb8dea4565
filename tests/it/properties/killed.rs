//! Random graphs over worker processes, one of which is killed: the job fails by name, and soon, or had not needed it any
//! more; and what is left of the node goes on.

use std::{
    future::IntoFuture,
    time::{Duration, Instant},
};

use futures::future::pending;
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use proscenium::{
    BuildRefusal, Environment, FailureCause, JobHandle, Limits, Outcome, OutputError, RemoteEnvironment, Restart,
    SubmitError,
};

use super::{
    drive::{self, Case, Plan, Room, Ticks},
    eval::{Expected, evaluate, items_of, origins},
    shape::{JOB_PARALLELISM, RandomJob, Record},
};
use crate::support::{Company, Place};

/// How soon a job has failed that lost a worker.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

/// A job, the workers that it has, and when one of them is killed.
#[derive(Debug, Clone)]
pub struct Killed {
    pub root: super::shape::Node,
    pub services: usize,
    pub room: Room,
    pub workers: usize,
    pub moment: Moment,
    pub which: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So long after it began to be submitted.
    After(Duration),
    /// Once so many items of the first source have been seen.
    Seen(usize),
    /// After so many hundredths of the time that it takes when it is left alone.
    Part(u32),
}

/// What became of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Refused,
    Failed { after: Duration },
    AsIfAlone,
}

fn fail(error: impl std::fmt::Debug) -> TestCaseError {
    TestCaseError::fail(format!("refused: {error:?}"))
}

impl Killed {
    fn job(&self, record: Record) -> RandomJob {
        RandomJob { root: self.root.clone(), services: self.services, record }
    }

    fn expected(&self) -> Expected {
        evaluate(&self.root, origins(&self.root).into_iter().map(items_of).collect())
    }

    fn limits(&self) -> Limits {
        self.room.limits()
    }

    pub async fn run(self) -> Result<End, TestCaseError> {
        let slots = vec![self.room.task_threads; self.workers];
        let mut company = Company::open(self.limits(), &slots).await;
        let env = crate::support::deadline("a client", company.connect()).await.map_err(fail)?;
        let end = self.disturbed(&env, &mut company).await?;
        company.engage(self.room.task_threads);
        company.joined().await;
        self.undisturbed(&env).await?;
        env.close().await;
        company.close().await;
        Ok(end)
    }

    /// Runs the job and kills a worker.
    async fn disturbed(&self, env: &RemoteEnvironment, company: &mut Company) -> Result<End, TestCaseError> {
        let job = self.job(Record::Ticks);
        let submitting = async { env.submit(job).parallelism(JOB_PARALLELISM).autostop(true).await };
        let (submitted, killed) = match self.moment {
            Moment::After(time) => futures::join!(submitting, async {
                // Nothing else happens then.
                let _ = tokio::time::timeout(time, pending::<()>()).await;
                Some(company.kill(self.which))
            }),
            Moment::Seen(_) | Moment::Part(_) => (submitting.await, None),
        };
        let job = match submitted {
            Ok(job) => job,
            Err(SubmitError::Build(refusal)) => {
                let is_named = matches!(refusal, BuildRefusal::WorkerLost { .. } | BuildRefusal::WorkersApart { .. });
                prop_assert!(is_named && killed.is_some(), "refused: {refusal}");
                return Ok(End::Refused);
            }
            Err(error) => return Err(fail(error)),
        };
        let rest = async {
            let count = if let Moment::Seen(count) = self.moment { count } else { 0 };
            let mut ticks = Ticks::read(&job, count).await;
            let killed = killed.unwrap_or_else(|| company.kill(self.which));
            let ((), outcome) = futures::join!(ticks.drain(), job.wait());
            self.judge(&job, outcome.map_err(fail)?, killed, &ticks.seen).await
        };
        drive::within_the_deadline(&job, rest).await
    }

    async fn judge(
        &self,
        job: &JobHandle,
        outcome: Outcome,
        (killed, at): (String, Instant),
        ticks: &[u64],
    ) -> Result<End, TestCaseError> {
        let after = at.elapsed();
        let expected = self.expected();
        if let Outcome::Failed(FailureCause::WorkerLost { worker, cause }) = &outcome {
            prop_assert_eq!(worker, &killed, "{}", cause);
            prop_assert!(after < NOTICED_WITHIN, "noticed after {:?}", after);
            for name in expected.outputs.keys() {
                let incomplete = matches!(job.output::<u64>(name).await, Err(OutputError::Incomplete { .. }));
                prop_assert!(incomplete, "`{}` of a job that lost a worker was read as if it were whole", name);
            }
            return Ok(End::Failed { after });
        }
        let status = job.status().await.map_err(fail)?;
        drive::check_ran(&outcome, &expected)?;
        if outcome.is_completed() {
            drive::check_whole(&self.case(Record::Ticks), job, &status, &expected, Some(ticks)).await?;
        }
        Ok(End::AsIfAlone)
    }

    fn case(&self, record: Record) -> Case {
        let place = Place::Workers { count: self.workers, peer_channel_bytes: 0 };
        Case { job: self.job(record), plan: Plan::Watch, room: self.room.clone(), place }
    }

    /// Kills a worker of a job that may begin anew, on those that are left. Returns in which attempt it came to its end.
    pub async fn begins_anew(self) -> Result<u32, TestCaseError> {
        let slots = vec![self.room.task_threads; self.workers];
        let mut company = Company::open(self.limits(), &slots).await;
        let env = crate::support::deadline("a client", company.connect()).await.map_err(fail)?;
        let Moment::Part(percent) = self.moment else { unreachable!("nothing of it is seen before its end") };
        let case = self.case(Record::Nothing);
        // The first one takes longer.
        self.undisturbed(&env).await?;
        let begun = Instant::now();
        self.undisturbed(&env).await?;
        let time = begun.elapsed() * percent / 100;
        let restart = Restart::fixed(3, Duration::ZERO);
        let submitting =
            env.submit(case.job.clone()).parallelism(JOB_PARALLELISM).autostop(true).restart(restart).into_future();
        let (job, ()) = futures::join!(submitting, async {
            let _ = tokio::time::timeout(time, pending::<()>()).await;
            company.kill(self.which);
        });
        let job = match job {
            Ok(job) => job,
            // It was not there yet, and may be submitted again.
            Err(SubmitError::Build(BuildRefusal::WorkerLost { .. } | BuildRefusal::WorkersApart { .. })) => {
                env.submit(case.job.clone()).parallelism(JOB_PARALLELISM).autostop(true).await.map_err(fail)?
            }
            Err(error) => return Err(fail(error)),
        };
        let ended = async {
            let outcome = job.wait().await.map_err(fail)?;
            let status = job.status().await.map_err(fail)?;
            let mut expected = self.expected();
            drive::check_ran(&outcome, &expected)?;
            if outcome.is_completed() {
                // Those that were set aside before count as well.
                expected.takes |= status.attempt > 1;
                drive::check_whole(&case, &job, &status, &expected, None).await?;
            }
            Ok(status.attempt)
        };
        let attempt = drive::within_the_deadline(&job, ended).await?;
        env.close().await;
        company.close().await;
        Ok(attempt)
    }

    /// With a worker in the place of the one that was killed, the same job comes to what it has to.
    async fn undisturbed(&self, env: &RemoteEnvironment) -> Result<(), TestCaseError> {
        let case = self.case(Record::Nothing);
        let job = env.submit(case.job.clone()).parallelism(JOB_PARALLELISM).autostop(true).await.map_err(fail)?;
        drive::to_its_end(&case, &job).await.map(drop)
    }
}
