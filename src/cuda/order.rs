//! How a call takes its place among the streams: what its stream waits for first, and what others may wait for then.
//!
//! The events are those of cudarc's slices, and so are the rules: a tensor that is read waits for its last writer, one
//! that is written for its last readers and writer. But where the driver refuses, cudarc leaves the error with the
//! context, for whichever thread looks next, and goes on. Here the call itself gets to know: a refused wait is its
//! error, and nothing is launched; after a refused record it waits for its work to end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, CudaView, CudaViewMut, DriverError, SyncOnDrop, result,
};

use super::error::{Result as CudaResult, while_doing};
use super::stream_checks::not_tracking_a_capture;

/// For each CUDA context an object that nobody else has, so that its pending error is that of whoever holds the lock.
/// They own nothing, and each stands for any context that has this handle, also later.
static TWINS: Mutex<Vec<Arc<CudaContext>>> = Mutex::new(Vec::new());

type Twins = MutexGuard<'static, Vec<Arc<CudaContext>>>;

/// The twin of a context.
fn twin_of(context: &CudaContext, twins: &mut Twins) -> Result<Arc<CudaContext>, DriverError> {
    if let Some(twin) = twins.iter().find(|twin| ***twin == *context) {
        return Ok(twin.clone());
    }
    // Then the next call has no reason left to fail after it made the object, which would take the context with it.
    context.bind_to_thread()?;
    // SAFETY: device and handle are those of a context that is alive. The object would destroy it when it is dropped:
    // it never is, because of the clone that is forgotten.
    let twin = unsafe { CudaContext::from_raw_context(context.ordinal(), context.cu_device(), context.cu_ctx()) }?;
    std::mem::forget(twin.clone());
    twins.push(twin.clone());
    Ok(twin)
}

/// A call's place on its stream.
pub(super) struct Turn<'a> {
    stream: &'a CudaStream,
    /// The same stream by way of the twin, if the context tracks events.
    by_twin: Option<Arc<CudaStream>>,
}

/// From the first wait to the last: see [`Turn::waited`].
pub(super) struct Waiting {
    _twins: Option<Twins>,
}

impl<'a> Turn<'a> {
    /// To be followed by [`Turn::read`] and [`Turn::write`] for all slices, [`Turn::waited`], the call's work, and
    /// [`Turn::record`].
    pub(super) fn begin(stream: &'a CudaStream) -> CudaResult<(Self, Waiting)> {
        if !stream.context().is_managing_stream_synchronization() {
            return Ok((Self { stream, by_twin: None }, Waiting { _twins: None }));
        }
        let mut twins = TWINS.lock().unwrap_or_else(PoisonError::into_inner);
        let twin = twin_of(stream.context(), &mut twins).map_err(while_doing("entering the context"))?;
        // SAFETY: a stream of the twin's context, for as long as `stream` is borrowed; the turn orders work on it as
        // cudarc would.
        let by_twin = unsafe { twin.wrap_borrowed_stream(stream.cu_stream()) };
        Ok((Self { stream, by_twin: Some(by_twin) }, Waiting { _twins: Some(twins) }))
    }

    fn waiting(&self) -> &CudaStream {
        self.by_twin.as_deref().unwrap_or(self.stream)
    }

    /// The address of what the call reads; the event is for [`Turn::record`].
    pub(super) fn read<'b, T>(&'b self, view: CudaView<'b, T>) -> (u64, Option<&'b CudaEvent>) {
        let (address, guard) = view.view_ptr(self.waiting());
        (address, event_of(&guard))
    }

    /// The address of what the call writes; the event is for [`Turn::record`].
    pub(super) fn write<'b, T>(&'b self, view: CudaViewMut<'b, T>) -> (u64, Option<&'b CudaEvent>) {
        let (address, guard) = view.view_ptr_mut(self.waiting());
        (address, event_of(&guard))
    }

    /// Whether the driver took all waits. If not, nothing may be enqueued.
    pub(super) fn waited(&self, waiting: Waiting) -> CudaResult<()> {
        if let Some(stream) = &self.by_twin {
            stream.context().check_err().map_err(while_doing("waiting for other streams"))?;
            drop(waiting);
            // An event of a stream that is being captured takes this one into the capture.
            not_tracking_a_capture(self.stream)?;
        }
        Ok(())
    }

    /// After the work was enqueued: others can wait for it by these events.
    pub(super) fn record<'b>(&self, events: impl IntoIterator<Item = Option<&'b CudaEvent>>) {
        if self.by_twin.is_none() {
            return;
        }
        for event in events.into_iter().flatten() {
            // SAFETY: event and stream are borrowed, so alive, and of one context, which the launch made current.
            let recorded = unsafe { result::event::record(event.cu_event(), self.stream.cu_stream()) };
            if recorded.is_err() {
                // SAFETY: the stream is borrowed.
                let ended = unsafe { result::stream::synchronize(self.stream.cu_stream()) };
                self.stream.context().record_err(recorded.and(ended));
            }
        }
    }
}

/// The twin tracks no events, so that the guard itself records none.
fn event_of<'b>(guard: &SyncOnDrop<'b>) -> Option<&'b CudaEvent> {
    match guard {
        SyncOnDrop::Record(Some((event, _))) => Some(event),
        _ => None,
    }
}

/// Has `write` enqueue what writes a slice.
pub(super) fn writing<T>(
    stream: &CudaStream,
    slice: &mut CudaSlice<T>,
    doing: &'static str,
    write: impl FnOnce(u64) -> Result<(), DriverError>,
) -> CudaResult<()> {
    let (turn, waiting) = Turn::begin(stream)?;
    let (address, event) = turn.write(slice.as_view_mut());
    turn.waited(waiting)?;
    stream.context().bind_to_thread().map_err(while_doing("entering the context, or in earlier work"))?;
    write(address).map_err(while_doing(doing))?;
    turn.record([event]);
    Ok(())
}

/// Copies a slice into as many elements of host memory. Waits for all work on the stream.
pub(super) fn to_host<T>(
    stream: &CudaStream,
    view: CudaView<'_, T>,
    mut copy: Vec<T>,
    doing: &'static str,
) -> CudaResult<Vec<T>> {
    debug_assert_eq!(view.len(), copy.len());
    let (turn, waiting) = Turn::begin(stream)?;
    let (address, event) = turn.read(view);
    turn.waited(waiting)?;
    stream.context().bind_to_thread().map_err(while_doing("entering the context, or in earlier work"))?;
    // SAFETY: the slice has as many elements as the copy, which is not touched, and on an error not freed, before the
    // stream was waited for. Both are plain numbers.
    let done = unsafe {
        result::memcpy_dtoh_async(&mut copy, address, stream.cu_stream()).and_then(|()| {
            turn.record([event]);
            result::stream::synchronize(stream.cu_stream())
        })
    };
    match done {
        Ok(()) => Ok(copy),
        Err(error) => {
            std::mem::forget(copy);
            Err(while_doing(doing)(error))
        }
    }
}

/// Streams that keep cudarc's event tracking going: it ends with the last stream that a context object has made, and
/// what is read or freed after that would wait for nothing.
#[derive(Debug, Default)]
pub(super) struct Anchors(Mutex<Vec<Arc<CudaStream>>>);

impl Anchors {
    /// Has the context object of this stream, which is not being captured, track events for as long as these are kept.
    pub(super) fn hold(&self, context: &Arc<CudaContext>) -> CudaResult<()> {
        if !context.is_event_tracking() {
            return Ok(());
        }
        let mut anchors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !anchors.iter().any(|anchor| Arc::ptr_eq(anchor.context(), context)) {
            // Waits for what the context was doing if it tracked no events yet.
            anchors.push(context.new_stream().map_err(while_doing("making a stream to track events by"))?);
        }
        Ok(())
    }

    /// Keeps them for good.
    pub(super) fn leak(&mut self) {
        std::mem::take(&mut self.0).into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().for_each(
            |anchor| {
                std::mem::forget(anchor);
            },
        );
    }
}
