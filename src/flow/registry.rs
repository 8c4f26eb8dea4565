//! Which job types a process can run, and the form in which a job comes to it.

mod sealed;

use std::{fmt, sync::Arc};

pub(crate) use self::sealed::Opening;
use self::sealed::Sealed;
use crate::{
    codec,
    flow::{Job, JobPayload, job::Typed},
    job::{EncodedJob, JobRefusal, NotSendable},
    schema::TypeDescription,
};

/// A job as it goes to another process.
pub(super) fn encode<J: Job>(job: &J) -> Result<EncodedJob, NotSendable> {
    let mut parameters = Vec::new();
    let encoded = codec::encode_caught(job, &mut parameters);
    let name = J::NAME.to_owned();
    if let Err(error) = encoded {
        return Err(NotSendable::Encode { job: name, message: error.to_string() });
    }
    let fingerprint = TypeDescription::of::<J>().fingerprint();
    Ok(EncodedJob { name, version: J::VERSION, fingerprint, parameters })
}

#[cfg(feature = "cli")]
mod json;

/// Why JSON is no job.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonRefusal {
    #[error(
        "no job type is named `{name}` in this program; {}",
        if .known.is_empty() { "it has none".to_owned() } else { format!("it has `{}`", .known.join("`, `")) }
    )]
    Unknown { name: String, known: Vec<&'static str> },
    #[error(
        "these are no parameters of `{name}`: {message}; they have the structure {structure}{}",
        .example.as_ref().map_or_else(String::new, |example| format!(", such as {example}"))
    )]
    Parameters { name: &'static str, message: String, structure: String, example: Option<serde_json::Value> },
}

/// The job types that a node can run, each known by its [`Job::NAME`]; most easily made by [`jobs!`](crate::jobs).
#[derive(Clone, Default)]
pub struct JobRegistry {
    entries: Vec<Entry>,
}

/// A job type as people are told of it.
#[cfg(feature = "cli")]
pub(crate) struct Described {
    pub name: &'static str,
    /// The structure of its parameters.
    pub parameters: String,
    /// The fields of those that may be left out, as far as is known: those of parts are not looked at.
    pub optional: Vec<String>,
}

#[derive(Clone, Copy)]
struct Entry {
    name: &'static str,
    version: u32,
    describe: fn() -> Arc<TypeDescription>,
    decode: fn(&[u8]) -> Result<JobPayload, codec::DecodeError>,
    #[cfg(feature = "cli")]
    read_json: json::Read,
}

impl JobRegistry {
    /// A registry that knows no job.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the job type `J`. A node that is given two types of one name does not open.
    #[must_use]
    pub fn add<J: Job>(mut self) -> Self {
        self.entries.push(Entry {
            name: J::NAME,
            version: J::VERSION,
            describe: TypeDescription::of::<J>,
            decode: |bytes| Ok(JobPayload(Box::new(Typed(codec::decode_untrusted::<J>(bytes)?)))),
            #[cfg(feature = "cli")]
            read_json: json::read::<J>,
        });
        self
    }

    /// Adds all job types of `other`.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.entries.extend(other.entries);
        self
    }

    /// The names, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.entries.iter().map(|entry| entry.name)
    }

    /// A name that was added twice.
    pub(crate) fn duplicate(&self) -> Option<&'static str> {
        let mut names: Vec<&str> = self.names().collect();
        names.sort_unstable();
        names.windows(2).find(|pair| pair[0] == pair[1]).and_then(|pair| self.names().find(|name| *name == pair[0]))
    }

    /// The job types, for people.
    #[cfg(feature = "cli")]
    pub(crate) fn descriptions(&self) -> impl Iterator<Item = Described> {
        self.entries.iter().map(|entry| {
            let description = (entry.describe)();
            let optional = json::example(entry.read_json, &description).map_or_else(Vec::new, |(_, optional)| optional);
            Described { name: entry.name, parameters: description.text(), optional }
        })
    }

    /// Reads a job whose parameters are written as JSON.
    #[cfg(feature = "cli")]
    pub(crate) fn read_json(&self, name: &str, json: &str) -> Result<JobPayload, JsonRefusal> {
        let Some(entry) = self.entries.iter().find(|entry| entry.name == name) else {
            return Err(JsonRefusal::Unknown { name: name.to_owned(), known: self.names().collect() });
        };
        let description = (entry.describe)();
        json::payload(entry.read_json, json, &description).map_err(|message| JsonRefusal::Parameters {
            name: entry.name,
            message,
            structure: description.text(),
            example: json::example(entry.read_json, &description).map(|(example, _)| example),
        })
    }

    /// A job of a type known here, which is decoded where its flow is built: no code of the user's runs here.
    pub(crate) fn sealed(&self, job: EncodedJob, opening: Opening) -> Result<JobPayload, JobRefusal> {
        Ok(JobPayload(Box::new(Sealed::new(*self.find(&job)?, job, opening))))
    }

    fn find(&self, job: &EncodedJob) -> Result<&Entry, JobRefusal> {
        let known = self.entries.iter().find(|entry| entry.name == job.name);
        known.ok_or_else(|| JobRefusal::Unknown {
            name: job.name.clone(),
            known: self.names().map(str::to_owned).collect(),
        })
    }

    /// Decodes a job, once it is sure that it is one of a type known here.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn open(&self, job: &EncodedJob) -> Result<JobPayload, JobRefusal> {
        self.find(job)?.open(job)
    }
}

impl Entry {
    /// Decodes a job, once it is sure that it is one of this type.
    fn open(&self, job: &EncodedJob) -> Result<JobPayload, JobRefusal> {
        let name = || job.name.clone();
        let description = (self.describe)();
        if description.fingerprint() != job.fingerprint {
            return Err(JobRefusal::TypeDiffers { name: name(), there: Box::new((*description).clone()) });
        }
        if self.version != job.version {
            return Err(JobRefusal::VersionDiffers { name: name(), here: job.version, there: self.version });
        }
        let decoded = (self.decode)(&job.parameters);
        decoded.map_err(|error| JobRefusal::Parameters { name: name(), message: error.to_string() })
    }
}

impl fmt::Debug for JobRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// The registry of these job types, for a node.
///
/// ```
/// use proscenium::{BuildError, Flow, Job, jobs};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Nothing;
///
/// impl Job for Nothing {
///     const NAME: &'static str = "nothing";
///
///     fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
///         Ok(())
///     }
/// }
///
/// let registry = jobs![Nothing];
/// assert!(registry.names().eq(["nothing"]));
/// ```
#[macro_export]
macro_rules! jobs {
    ($($job:ty),* $(,)?) => {
        $crate::JobRegistry::new()$(.add::<$job>())*
    };
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{flow::Flow, job::BuildError};

    #[derive(Serialize, Deserialize)]
    struct Count {
        to: u32,
    }

    impl Job for Count {
        const NAME: &'static str = "count";
        const VERSION: u32 = 2;

        fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
            Ok(())
        }
    }

    mod older {
        use super::*;

        #[derive(Serialize, Deserialize)]
        pub(super) struct Count {
            pub until: u32,
        }

        impl Job for Count {
            const NAME: &'static str = "count";

            fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
                Ok(())
            }
        }
    }

    fn encoded(job: &impl Job) -> EncodedJob {
        encode(job).expect("it can be encoded")
    }

    #[test]
    fn a_known_job_comes_back() {
        let payload = crate::jobs![Count].open(&encoded(&Count { to: 7 })).expect("it is known");
        assert_eq!(payload.0.name(), "count");
    }

    #[test]
    fn whatever_differs_is_told() {
        let registry = crate::jobs![Count];
        let unknown = EncodedJob { name: "sum".to_owned(), ..encoded(&Count { to: 1 }) };
        let known = vec!["count".to_owned()];
        assert_eq!(registry.open(&unknown).err(), Some(JobRefusal::Unknown { name: "sum".to_owned(), known }));
        match registry.open(&encoded(&older::Count { until: 1 })) {
            Err(JobRefusal::TypeDiffers { name, there }) => {
                let difference = TypeDescription::of::<older::Count>().difference(&there);
                assert_eq!(
                    (name.as_str(), difference.as_str()),
                    ("count", "field `until` of `Count` exists here and not there")
                );
            }
            other => panic!("{:?}", other.err()),
        }
        let old = EncodedJob { version: 1, ..encoded(&Count { to: 1 }) };
        let differs = JobRefusal::VersionDiffers { name: "count".to_owned(), here: 1, there: 2 };
        assert_eq!(registry.open(&old).err(), Some(differs));
        let cut = EncodedJob { parameters: Vec::new(), ..encoded(&Count { to: 1 }) };
        assert!(matches!(registry.open(&cut), Err(JobRefusal::Parameters { .. })));
    }

    #[test]
    fn a_name_that_is_there_twice_is_found() {
        assert_eq!(crate::jobs![Count].duplicate(), None);
        assert_eq!(crate::jobs![Count, older::Count].duplicate(), Some("count"));
    }
}
