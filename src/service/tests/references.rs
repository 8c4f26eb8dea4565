//! References: what they say when they lead nowhere, and how they travel.

use std::{
    marker::PhantomData,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;

use super::support::{Double, Hosted, Probe, Stage, Unlisted};
use crate::{
    codec,
    host::Host,
    job::JobId,
    service::{
        Call, CallError, Fate, FoundService, MessageTable, Origin, Service, ServiceDirectory, ServiceRef,
        ServiceResolver, Tell,
    },
};

/// A service that is neither `Send` nor `Sync`.
struct Other(PhantomData<Rc<()>>);

impl actix::Actor for Other {
    type Context = actix::Context<Self>;
}

impl actix::Handler<Double> for Other {
    type Result = u64;
    fn handle(&mut self, _: Double, _: &mut Self::Context) -> u64 {
        0
    }
}

impl Service for Other {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Double>("double");
    }
}

#[test]
fn references_and_their_futures_cross_threads_whatever_the_service_is() {
    fn crosses<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    fn moves<T: Send + 'static>() {}
    crosses::<ServiceRef<Other>>();
    moves::<Call<Other, Double>>();
    moves::<Tell<Other, Double>>();
    crosses::<CallError>();
}

#[test]
fn wrong_names_types_and_messages_are_refused_in_words() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let error = hosted.directory.get::<Probe>("prope", Origin::Task).expect_err("no such name");
    assert_eq!(error.to_string(), "no service `prope` in this job, which has `probe`");
    assert_eq!(error.fate(), Fate::Refused);
    let error = hosted.directory.get::<Other>("probe", Origin::Task).expect_err("another type");
    assert!(matches!(&error, CallError::WrongService { asked, registered, .. }
        if asked.ends_with("Other") && registered.ends_with("Probe")));
    let service = hosted.service(Origin::Task);
    for error in [service.call(Unlisted).blocking().err(), service.tell(Unlisted).blocking().err()] {
        let Some(CallError::NotAccepted { message, accepted, .. }) = error else { panic!("{error:?}") };
        assert!(message.ends_with("Unlisted") && accepted.contains(&"double".to_owned()));
    }
    assert_eq!(hosted.handled(), 0);
}

#[test]
#[should_panic(expected = "two messages named `double`")]
fn a_name_is_accepted_once() {
    MessageTable::<Probe>::new().accept::<Unlisted>("double");
}

struct Resolver {
    directory: Result<Arc<ServiceDirectory>, CallError>,
    host: Host,
    asked: AtomicU32,
}

impl ServiceResolver for Resolver {
    fn service(&self, _: JobId, name: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.directory.clone().and_then(|directory| directory.gate(name)).map(FoundService::Gate);
        Box::pin(async move {
            // Pending once, as an answer from elsewhere is.
            actix_rt::task::yield_now().await;
            found
        })
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn call_deadline(&self) -> Duration {
        Duration::from_secs(10)
    }
}

#[test]
fn a_lazy_reference_is_resolved_once_for_all_its_clones() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let directory = Ok(Arc::clone(&hosted.directory));
    let resolver = Arc::new(Resolver { directory, host: stage.host.clone(), asked: AtomicU32::new(0) });
    let link: Arc<dyn ServiceResolver> = Arc::clone(&resolver) as _;
    let service = ServiceRef::<Probe>::lazy(Arc::clone(&link), hosted.directory.job(), "probe");
    let clone = service.clone();
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 0);
    assert_eq!(service.call(Double(1)).blocking(), Ok(2));
    assert_eq!(clone.call(Double(2)).blocking(), Ok(4));
    clone.tell(Double(2)).blocking().expect("there is room");
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);

    let wrong = ServiceRef::<Other>::lazy(link, hosted.directory.job(), "probe");
    assert!(matches!(wrong.call(Double(1)).blocking(), Err(CallError::WrongService { .. })));
    hosted.recipe.gate().close_to_outside();
    assert!(matches!(clone.call(Double(1)).blocking(), Err(CallError::Stopping { .. })));
}

#[test]
fn a_lookup_that_fails_or_hangs_ends_the_call() {
    let (host, thread) = Host::of_tests();
    let directory = Err(CallError::EnvironmentClosed);
    let resolver = Arc::new(Resolver { directory, host: host.clone(), asked: AtomicU32::new(0) });
    let service = ServiceRef::<Probe>::lazy(resolver, JobId::random(), "probe");
    assert_eq!(service.call(Double(1)).blocking(), Err(CallError::EnvironmentClosed));
    assert_eq!(service.tell(Double(1)).blocking(), Err(CallError::EnvironmentClosed));

    struct Hanging(Host);
    impl ServiceResolver for Hanging {
        fn service(&self, _: JobId, _: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
            Box::pin(std::future::pending())
        }
        fn host(&self) -> &Host {
            &self.0
        }
        fn call_deadline(&self) -> Duration {
            Duration::from_millis(5)
        }
    }
    let service = ServiceRef::<Probe>::lazy(Arc::new(Hanging(host)), JobId::random(), "probe");
    assert!(matches!(service.call(Double(1)).blocking(), Err(CallError::Timeout { .. })));
    // A timer that was stopped means that the environment is closed.
    thread.stop_and_join();
    assert_eq!(service.call(Double(1)).blocking(), Err(CallError::EnvironmentClosed));
}

#[test]
fn a_decoded_reference_is_unbound_until_it_is_bound() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Task);
    let mut bytes = Vec::new();
    codec::encode_into(&service, &mut bytes).expect("it is an id and a name");
    let decoded: ServiceRef<Probe> = codec::decode(&bytes).expect("it was just encoded");
    assert_eq!((decoded.job(), decoded.name()), (service.job(), "probe"));
    let unbound = CallError::Unbound { job: service.job(), service: "probe".into() };
    assert_eq!(decoded.call(Double(1)).blocking(), Err(unbound.clone()));
    assert_eq!(decoded.tell(Double(1)).blocking(), Err(unbound));

    let directory = Ok(Arc::clone(&hosted.directory));
    let bound = decoded.bind_to(Arc::new(Resolver { directory, host: stage.host.clone(), asked: AtomicU32::new(0) }));
    assert_eq!(bound.call(Double(1)).blocking(), Ok(2));
    assert_eq!(format!("{bound:?}"), format!("ServiceRef {{ job: {}, name: \"probe\", bound: true }}", service.job()));
}
