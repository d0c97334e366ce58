//! The paged KV cache of a GPU.
//!
//! Rows grow at different rates, so memory is allocated in pages of [`PAGE`] positions. Rows with
//! the same prompt share pages, copy on write.

use crate::kernels::decode::paged::{scatter_rows, PagedQueries, PAGE};
use crate::kernels::layers::rows_at::rows_at;
use crate::Result;
use candle_core::{Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The pages of all rows of a cache.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    /// Keys and values of every block, `[pages · PAGE, K·d]`; copied before a write if a clone of
    /// the cache shares them.
    layers: Arc<Vec<[Tensor; 2]>>,
    /// Reference count of each page.
    holders: Vec<u32>,
    free: Vec<u32>,
    /// Pages of each row, in order.
    rows: Vec<Vec<u32>>,
}

impl Pages {
    /// Creates pages for `rows` rows of `layers` blocks, in the type and on the device of `like`.
    pub(crate) fn new(layers: usize, width: usize, rows: usize, like: &Tensor) -> Result<Self> {
        let empty = || Tensor::zeros((PAGE, width), like.dtype(), like.device());
        let layers: candle_core::Result<_> =
            (0..layers).map(|_| Ok([empty()?, empty()?])).collect();
        let layers = Arc::new(layers?);
        Ok(Self { layers, holders: vec![0], free: vec![0], rows: vec![Vec::new(); rows] })
    }

    /// Returns true if the pages have the type of `like` and lie on its device.
    pub(crate) fn fits(&self, like: &Tensor) -> bool {
        let dtype = self.layers[0][0].dtype();
        dtype == like.dtype() && self.device().same_device(like.device())
    }

    fn device(&self) -> &Device {
        self.layers[0][0].device()
    }

    pub(crate) fn layer(&self, layer: usize) -> &[Tensor; 2] {
        &self.layers[layer]
    }

    /// Gives each row of `spans` pages of its own to write the positions of its span into.
    pub(crate) fn prepare(&mut self, spans: &[(usize, Range<usize>)]) -> Result<()> {
        let mut copies = Vec::new();
        let wanted = |(row, span): &(usize, Range<usize>)| {
            span.end.div_ceil(PAGE) - self.rows[*row].len() + 1
        };
        self.grow(spans.iter().map(wanted).sum())?;
        for (row, span) in spans {
            let partial = span.start / PAGE;
            if let Some(&page) = self.rows[*row].get(partial) {
                if self.holders[page as usize] > 1 {
                    let own = self.take();
                    self.holders[page as usize] -= 1;
                    self.rows[*row][partial] = own;
                    copies.push((page, own));
                }
            }
            while self.rows[*row].len() * PAGE < span.end {
                let page = self.take();
                self.rows[*row].push(page);
            }
        }
        self.copy(&copies)
    }

    /// Makes sure that `count` pages are free.
    fn grow(&mut self, count: usize) -> Result<()> {
        if self.free.len() >= count {
            return Ok(());
        }
        let pages = self.holders.len();
        let more = (count - self.free.len()).max(pages / 2);
        let grown = |tensor: &Tensor| -> candle_core::Result<Tensor> {
            let shape = (more * PAGE, tensor.dim(1)?);
            Tensor::cat(&[tensor, &Tensor::zeros(shape, tensor.dtype(), tensor.device())?], 0)
        };
        // One block after another, so that the old and the new pages of only one exist together.
        for [keys, values] in self.unshared()? {
            *keys = grown(keys)?;
            *values = grown(values)?;
        }
        self.holders.resize(pages + more, 0);
        self.free.extend((pages as u32..(pages + more) as u32).rev());
        Ok(())
    }

    /// The layers, for writing.
    fn unshared(&mut self) -> Result<&mut Vec<[Tensor; 2]>> {
        if Arc::get_mut(&mut self.layers).is_none() {
            let copy = |[k, v]: &[Tensor; 2]| Ok([k.copy()?, v.copy()?]);
            let copies: candle_core::Result<_> = self.layers.iter().map(copy).collect();
            self.layers = Arc::new(copies?);
        }
        Ok(Arc::make_mut(&mut self.layers))
    }

    /// A free page, which [`Pages::grow`] provided.
    fn take(&mut self) -> u32 {
        let page = self.free.pop().unwrap_or_default();
        self.holders[page as usize] = 1;
        page
    }

    /// Copies pages (from, to) of all blocks.
    fn copy(&mut self, pages: &[(u32, u32)]) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        let positions = |page: u32| (page * PAGE as u32)..((page + 1) * PAGE as u32);
        let from: Arc<[u32]> = pages.iter().flat_map(|&(from, _)| positions(from)).collect();
        let to: Vec<u32> = pages.iter().flat_map(|&(_, to)| positions(to)).collect();
        let to = Tensor::new(to, self.device())?;
        for tensor in self.unshared()?.iter().flatten() {
            scatter_rows(&rows_at(tensor, &from)?, &to, tensor)?;
        }
        Ok(())
    }

    /// Writes keys and values `[n, K·d]` of a block to the places `[n]` (u32).
    pub(crate) fn write(&mut self, layer: usize, new: [&Tensor; 2], places: &Tensor) -> Result<()> {
        let [keys, values] = &self.unshared()?[layer];
        scatter_rows(new[0], places, keys)?;
        Ok(scatter_rows(new[1], places, values)?)
    }

    /// Gives back the pages after the first `positions` positions of `row`.
    pub(crate) fn truncate(&mut self, row: usize, positions: usize) {
        let pages = &mut self.rows[row];
        let kept = positions.div_ceil(PAGE).min(pages.len());
        for page in pages.drain(kept..) {
            self.holders[page as usize] -= 1;
            if self.holders[page as usize] == 0 {
                self.free.push(page);
            }
        }
    }

    /// Lets `others`, which are empty, hold the pages of `from`.
    pub(crate) fn share(&mut self, from: usize, others: &[usize]) {
        for &other in others {
            self.truncate(other, 0);
            self.rows[other] = self.rows[from].clone();
            for &page in &self.rows[other] {
                self.holders[page as usize] += 1;
            }
        }
    }

    /// The places of a row's positions among those of all pages.
    pub(crate) fn places(&self, row: usize, span: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        let page = move |position: usize| self.rows[row][position / PAGE] * PAGE as u32;
        span.map(move |position| page(position) + (position % PAGE) as u32)
    }

    /// The places of the query tokens of `spans`, which have been prepared.
    pub(crate) fn queries(&self, spans: &[(usize, Range<usize>)]) -> Result<PagedQueries> {
        let longest = spans.iter().map(|(_, span)| span.end).max().unwrap_or(0);
        let width = longest.div_ceil(PAGE).max(1);
        let mut tables = Vec::with_capacity(spans.len() * width);
        let mut rows = Vec::new();
        let mut positions = Vec::new();
        for (i, (row, span)) in spans.iter().enumerate() {
            let known = &self.rows[*row][..span.end.div_ceil(PAGE)];
            tables.extend(known);
            tables.resize((i + 1) * width, 0);
            rows.extend(span.clone().map(|_| i as u32));
            positions.extend(span.clone().map(|position| position as u32));
        }
        let device = self.device();
        Ok(PagedQueries {
            tables: Tensor::new(tables, device)?,
            width,
            rows: Tensor::new(rows, device)?,
            positions: Tensor::new(positions, device)?,
            longest,
        })
    }
}
