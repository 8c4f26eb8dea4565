//! Identifiers that travel: jobs, tasks, attempts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::host::{Host, fill_secret};

/// The 128-bit identifier of one submitted job.
///
/// The submitting side draws it at random, so that a submit repeated after a lost reply names the same job.
/// Displayed as `job-` and 32 hexadecimal digits; [`FromStr`] reads that form back. Formats for people, such as JSON,
/// hold that form too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u128);

impl JobId {
    /// Draws a new random identifier.
    ///
    /// # Panics
    ///
    /// Panics if the operating system has no source of random bytes.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        fill_secret(&mut bytes).expect("the operating system provides random bytes");
        Self(u128::from_le_bytes(bytes))
    }

    /// Draws one for a job of an environment.
    pub(crate) fn drawn(host: &Host) -> Self {
        let mut bytes = [0; 16];
        host.fill(&mut bytes).expect("the operating system provides random bytes");
        Self(u128::from_le_bytes(bytes))
    }

    pub(crate) fn number(self) -> u128 {
        self.0
    }
}

/// A [`JobId`] in formats for machines.
#[derive(Serialize, Deserialize)]
#[serde(rename = "JobId")]
struct Number(u128);

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { Number(self.0).serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            Number::deserialize(deserializer).map(|Number(id)| Self(id))
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job-{:032x}", self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a [`JobId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a job id; one reads `job-` and 32 hexadecimal digits")]
pub struct ParseJobIdError(String);

impl FromStr for JobId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("job-").filter(|digits| digits.len() == 32);
        digits
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u128::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| ParseJobIdError(text.to_owned()))
    }
}

/// The number of a task within its job's graph: one parallel instance of one chain of operators.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId(pub u32);

impl TaskId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task-{}", self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a service within its job, in order of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ServiceId(pub u32);

impl ServiceId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A JobManager process that a job has; another process that takes the job over is the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Generation(pub u32);

/// One deployment of a job's tasks and services; a restart of the tasks is a new attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Attempt(pub u32);

impl Attempt {
    pub(crate) const FIRST: Self = Self(1);
}

/// An attempt, of all that a job has in its life. Whatever names another than the present one changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Term {
    pub generation: Generation,
    pub attempt: Attempt,
}

/// One run of a service: the first is 0, each restart from the factory is the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Incarnation(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_reads_back_what_it_displays() {
        let id = JobId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_text_that_is_no_job_id_is_refused() {
        for text in ["", "job-", "job-12", "12345678123456781234567812345678", "job-+2345678123456781234567812345678"] {
            assert!(text.parse::<JobId>().is_err(), "{text} was read as a job id");
        }
    }
}
