//! The host device, made slow, stuck or broken at will.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use trtc_engine::manifest::Manifest;
use trtc_runtime::device::{
    Bindings, Buffer, Call, Device, Event, Fetch, Graph, Region, SharedBytes, StepDims,
};
use trtc_runtime::error::Error;

/// What the device does besides.
#[derive(Debug, Default)]
pub struct Control {
    /// How long each step takes more, microseconds.
    pub pause: AtomicU64,
    /// Steps fail.
    pub fails: AtomicBool,
}

impl Control {
    pub fn pause(&self, time: Duration) {
        self.pause.store(time.as_micros() as u64, Ordering::Relaxed);
    }
}

pub struct Controlled(pub Box<dyn Device>, pub Arc<Control>);

impl Device for Controlled {
    fn name(&self) -> String {
        self.0.name()
    }
    fn free_memory(&self) -> u64 {
        self.0.free_memory()
    }
    fn total_memory(&self) -> u64 {
        self.0.total_memory()
    }
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Buffer, Error> {
        self.0.alloc(bytes, what)
    }
    fn share(&mut self, bytes: SharedBytes, what: &str) -> Result<Buffer, Error> {
        self.0.share(bytes, what)
    }
    fn free(&mut self, buffer: Buffer) {
        self.0.free(buffer);
    }
    fn upload(&mut self, to: Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0.upload(to, offset, bytes)
    }
    fn download(&mut self, from: Buffer, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.0.download(from, offset, into)
    }
    fn fetch(&mut self, from: Region) -> Result<Fetch, Error> {
        self.0.fetch(from)
    }
    fn fetched(&mut self, fetch: Fetch, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        std::thread::sleep(Duration::from_micros(self.1.pause.load(Ordering::Relaxed)));
        self.0.fetched(fetch, take)?;
        match self.1.fails.load(Ordering::Relaxed) {
            true => Err(Error::bug("the device was told to fail")),
            false => Ok(()),
        }
    }
    fn copy(&mut self, from: Region, to: Region) -> Result<(), Error> {
        self.0.copy(from, to)
    }
    fn forget(&mut self, region: Region) -> Result<(), Error> {
        self.0.forget(region)
    }
    fn load(
        &mut self,
        manifest: &Manifest,
        module: &dyn Fn(&str) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        self.0.load(manifest, module)
    }
    fn launch(&mut self, call: Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error> {
        self.0.launch(call, bind, dims)
    }
    fn records_ahead(&self) -> bool {
        self.0.records_ahead()
    }
    fn record(&mut self, calls: &[Call<'_>], bind: &Bindings, dims: StepDims) -> Result<Graph, Error> {
        self.0.record(calls, bind, dims)
    }
    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        self.0.replay(graph)
    }
    fn event(&mut self) -> Result<Event, Error> {
        self.0.event()
    }
    fn wait(&mut self, event: Event) -> Result<(), Error> {
        self.0.wait(event)
    }
    fn elapsed(&mut self, from: Event, to: Event) -> Result<f64, Error> {
        self.0.elapsed(from, to)
    }
}
