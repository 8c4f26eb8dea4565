//! By which key one worker dials another one in an attempt.

use hkdf::Hkdf;
use sha2::Sha256;

use crate::{bridge::key::Key, peer::Meet};

/// The key of the connection that worker `from` makes to worker `to`. Each has one of its own, derived from the attempt's,
/// so that who proves it has said which job and attempt the connection is of, and between whom: a connection can neither be
/// sent back nor passed on to another worker.
pub(super) fn key_of(meet: &Meet, from: u32, to: u32) -> Key {
    let mut info = b"proscenium peer".to_vec();
    info.extend(meet.job.number().to_le_bytes());
    for number in [meet.term.generation.0, meet.term.attempt.0, from, to] {
        info.extend(number.to_le_bytes());
    }
    let mut secret = [0; 32];
    Hkdf::<Sha256>::new(None, &meet.key).expand(&info, &mut secret).expect("32 bytes are less than HKDF can give");
    Key::from_bytes(&secret).expect("32 bytes are enough")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Attempt, Generation, JobId, Term};

    #[test]
    fn each_connection_of_each_attempt_has_a_key_of_its_own() {
        let term = |generation, attempt| Term { generation: Generation(generation), attempt: Attempt(attempt) };
        let meet = |job, term, key| Meet { job, term, here: 0, addresses: Vec::new(), key: [key; 32] };
        let (one, other) = (JobId::random(), JobId::random());
        let mut keys = Vec::new();
        for meet in [meet(one, term(1, 2), 7), meet(other, term(1, 2), 7), meet(one, term(2, 1), 7)] {
            keys.extend([(0, 1), (1, 0), (0, 2), (1, 2)].map(|(from, to)| key_of(&meet, from, to).id()));
        }
        keys.push(key_of(&meet(one, term(1, 2), 8), 0, 1).id());
        assert_eq!(key_of(&meet(one, term(1, 2), 7), 0, 1).id(), keys[0]);
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
