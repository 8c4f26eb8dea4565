//! The environments that every behaviour is tested in.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use proscenium::{Environment, Limits, LocalEnvironment};

use super::DEADLINE;

/// A kind of environment. Every test body runs in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Local,
}

impl Place {
    const ALL: [Self; 1] = [Self::Local];

    fn open(self, limits: Limits) -> Box<dyn Environment> {
        match self {
            Self::Local => {
                let builder = LocalEnvironment::builder("test").task_threads(2).limits(limits);
                Box::new(builder.open().expect("an environment can be opened"))
            }
        }
    }
}

/// Runs `body` in each kind of environment, each opened for it alone.
pub fn each_environment(body: impl AsyncFn(&dyn Environment)) {
    each_environment_with(&Limits::default(), body);
}

/// As [`each_environment`], with limits other than the defaults.
pub fn each_environment_with(limits: &Limits, body: impl AsyncFn(&dyn Environment)) {
    let mut passed = 0;
    for place in Place::ALL {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        let env = place.open(limits.clone());
        // Several waits fit into it, each of which has the deadline for itself.
        let body = AssertUnwindSafe(body(&*env)).catch_unwind();
        let result = runtime.block_on(async { tokio::time::timeout(4 * DEADLINE, body).await });
        match result {
            Ok(Ok(())) => {
                let closed = runtime.block_on(async { tokio::time::timeout(DEADLINE, env.close()).await });
                assert!(closed.is_ok(), "{place:?}: the environment did not close");
                passed += 1;
            }
            // Closing may hang for the very reason the test failed; then the failure would never be seen.
            Ok(Err(panic)) => {
                std::mem::forget(env);
                eprintln!("in {place:?}:");
                std::panic::resume_unwind(panic);
            }
            Err(_) => {
                std::mem::forget(env);
                panic!("{place:?}: the test did not end");
            }
        }
    }
    assert_eq!(passed, Place::ALL.len(), "each environment gave one result");
}
