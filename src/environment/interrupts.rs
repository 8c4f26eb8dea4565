//! Ctrl+C, for environments that were asked to listen for it.

use std::pin::pin;

use futures::{
    FutureExt,
    future::{BoxFuture, Either, select},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

/// Each Ctrl+C of this process, from when the future is ready until the receiver is dropped. Listened for on `runtime`,
/// because only a tokio runtime can.
pub(super) fn listen(runtime: &Handle) -> BoxFuture<'static, mpsc::Receiver<()>> {
    // One that is not yet taken stands for all that follow it.
    let (interrupts, receiver) = mpsc::channel(3);
    let (ready, is_ready) = oneshot::channel();
    runtime.spawn(forward(interrupts, ready));
    // An error says that there is nothing to listen with, which the closed receiver tells too.
    Box::pin(is_ready.map(|_| receiver))
}

#[cfg(unix)]
async fn forward(interrupts: mpsc::Sender<()>, ready: oneshot::Sender<()>) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = match signal(SignalKind::interrupt()) {
        Ok(signals) => signals,
        Err(error) => return tracing::warn!(%error, "Ctrl+C cannot be listened for"),
    };
    let _ = ready.send(());
    loop {
        let (signal, unwanted) = (pin!(signals.recv()), pin!(interrupts.closed()));
        match select(signal, unwanted).await {
            Either::Left((Some(()), _)) => {
                let _ = interrupts.try_send(());
            }
            Either::Left((None, _)) | Either::Right(_) => return,
        }
    }
}

/// Ready at the first Ctrl+C or SIGTERM; from then on, further ones do nothing. Without a runtime that lives, or a signal to
/// be had, never.
pub(super) fn told_to_end(runtime: &Handle) -> impl Future<Output = ()> + Send + use<> {
    let (told, is_told) = oneshot::channel();
    runtime.spawn(async move {
        if end_signal().await.is_ok() {
            // Nobody may be interested any more.
            let _ = told.send(());
        }
    });
    async {
        if is_told.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Yields once for each Ctrl+C or SIGTERM. The handlers are installed a moment after the call. The channel closes if the runtime has
/// ended or a handler cannot be installed.
pub(super) fn each_end(runtime: &Handle) -> mpsc::Receiver<()> {
    // One that is not yet taken stands for all that follow it.
    let (ends, receiver) = mpsc::channel(2);
    runtime.spawn(forward_ends(ends));
    receiver
}

#[cfg(unix)]
async fn forward_ends(ends: mpsc::Sender<()>) {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = signal(SignalKind::interrupt()).and_then(|first| Ok((first, signal(SignalKind::terminate())?)));
    let (mut interrupt, mut terminate) = match signals {
        Ok(signals) => signals,
        Err(error) => return tracing::warn!(%error, "signals cannot be listened for"),
    };
    loop {
        let (interrupted, terminated, unwanted) = (pin!(interrupt.recv()), pin!(terminate.recv()), pin!(ends.closed()));
        if let Either::Right(_) = select(select(interrupted, terminated), unwanted).await {
            return;
        }
        let _ = ends.try_send(());
    }
}

#[cfg(not(unix))]
async fn forward_ends(ends: mpsc::Sender<()>) {
    while tokio::signal::ctrl_c().await.is_ok() && !ends.is_closed() {
        let _ = ends.try_send(());
    }
}

#[cfg(unix)]
async fn end_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    select(pin!(interrupt.recv()), pin!(terminate.recv())).await;
    Ok(())
}

#[cfg(not(unix))]
async fn end_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

#[cfg(not(unix))]
async fn forward(interrupts: mpsc::Sender<()>, ready: oneshot::Sender<()>) {
    let _ = ready.send(());
    loop {
        let (signal, unwanted) = (pin!(tokio::signal::ctrl_c()), pin!(interrupts.closed()));
        match select(signal, unwanted).await {
            Either::Left((Ok(()), _)) => {
                let _ = interrupts.try_send(());
            }
            Either::Left((Err(_), _)) | Either::Right(_) => return,
        }
    }
}
