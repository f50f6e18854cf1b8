//! Kills an invocation: its future is dropped after a given number of polls, as if the platform killed the process. No I/O.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future that is dropped after a given number of polls.
pub(crate) struct Killed<F> {
    inner: Option<Pin<Box<F>>>,
    left: Option<u32>,
    /// How often the future was polled.
    pub(crate) polls: u32,
}

impl<F: Future> Killed<F> {
    pub(crate) fn after(inner: F, left: Option<u32>) -> Self {
        Self { inner: Some(Box::pin(inner)), left, polls: 0 }
    }
}

impl<F: Future> Future for Killed<F> {
    /// `None` if the future was killed.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == Some(self.polls) {
            self.inner = None;
            return Poll::Ready(None);
        }
        self.polls += 1;
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        inner.as_mut().poll(context).map(Some)
    }
}
