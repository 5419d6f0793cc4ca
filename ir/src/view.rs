//! Derived views of a function for the algorithms that want a graph: petgraph, topological order, liveness, DOT.
//!
//! The store is [`Func`]; a view is made when it is needed and never kept beside a change.

use crate::entity::{OpId, ValueId};
use crate::module::{Def, Func};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write;

/// A node of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A parameter.
    Param(ValueId),
    /// A live op.
    Op(OpId),
}

/// A function's dataflow: an edge from who makes a value to each op that reads it, once for each operand.
pub struct View {
    /// The graph; ops are in execution order after the parameters.
    pub graph: DiGraph<Node, ValueId>,
    /// Where each node is.
    pub nodes: BTreeMap<Node, NodeIndex>,
}

impl View {
    /// The view of a function. Operands that nobody live makes have no edge.
    pub fn new(func: &Func) -> View {
        let mut graph = DiGraph::new();
        let mut nodes = BTreeMap::new();
        let all = func.params.iter().map(|&p| Node::Param(p)).chain(func.order.iter().map(|&o| Node::Op(o)));
        for node in all {
            nodes.entry(node).or_insert_with(|| graph.add_node(node));
        }
        for &op in &func.order {
            let Some(data) = func.ops.get(op) else { continue };
            for value in data.op.operands() {
                let maker = match func.values.get(value).map(|v| v.def) {
                    Some(Def::Param(_)) => Node::Param(value),
                    Some(Def::Op(op, _)) => Node::Op(op),
                    None => continue,
                };
                if let (Some(&from), Some(&to)) = (nodes.get(&maker), nodes.get(&Node::Op(op))) {
                    graph.add_edge(from, to, value);
                }
            }
        }
        View { graph, nodes }
    }

    /// The live ops, each after the ops that it reads from; among those that are ready, the one that came first
    /// stays first. `None` if there is a cycle.
    pub fn topological_order(&self) -> Option<Vec<OpId>> {
        let mut waiting: BTreeMap<NodeIndex, usize> = self
            .graph
            .node_indices()
            .map(|n| (n, self.graph.edges_directed(n, petgraph::Incoming).count()))
            .collect();
        let mut ready: BinaryHeap<Reverse<NodeIndex>> =
            waiting.iter().filter(|(_, n)| **n == 0).map(|(n, _)| Reverse(*n)).collect();
        let mut order = Vec::new();
        let mut done = 0;
        while let Some(Reverse(node)) = ready.pop() {
            done += 1;
            if let Node::Op(op) = self.graph[node] {
                order.push(op);
            }
            for edge in self.graph.edges(node) {
                if let Some(n) = waiting.get_mut(&edge.target()) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(Reverse(edge.target()));
                    }
                }
            }
        }
        (done == self.graph.node_count()).then_some(order)
    }

    /// The graph in DOT, for Graphviz.
    pub fn dot(&self, func: &Func) -> String {
        let name = |v: ValueId| func.values.get(v).map_or("?", |v| v.name.as_str());
        let mut out = String::from("digraph {\n  node [shape=box];\n");
        for node in self.graph.node_indices() {
            let label = match self.graph[node] {
                Node::Param(v) => format!("%{}", name(v)),
                Node::Op(op) => func.ops.get(op).map_or("?".into(), |o| format!("llm.{}", o.op.name())),
            };
            let _ = writeln!(out, "  n{} [label={label:?}];", node.index());
        }
        for edge in self.graph.edge_references() {
            let label = format!("%{}", name(*edge.weight()));
            let _ = writeln!(
                out,
                "  n{} -> n{} [label={label:?}];",
                edge.source().index(),
                edge.target().index()
            );
        }
        out.push_str("}\n");
        out
    }
}

/// When a value is needed, in positions of [`Func::order`], both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The value.
    pub value: ValueId,
    /// Position of the op that makes it; 0 for a parameter.
    pub from: usize,
    /// Position of the last op that reads it; `from` if none does; the number of ops for a function result.
    pub to: usize,
}

impl Interval {
    /// True if both values are needed at the same time.
    pub fn overlaps(&self, other: &Interval) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// The interval of each parameter and each result of a live op, in order of definition. Ids out of range are skipped.
/// What an op reads that a later op's kernel computes too is needed up to there.
pub fn liveness(func: &Func) -> Vec<Interval> {
    let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (at, &op) in func.order.iter().enumerate() {
        let Some(data) = func.ops.get(op) else { continue };
        let chained = data.kernels.iter().filter_map(|k| func.ops.get(func.chained(k)?));
        for v in std::iter::once(data).chain(chained).flat_map(|d| d.op.operands()) {
            last.insert(v, at);
        }
    }
    last.extend(func.results.iter().map(|&v| (v, func.order.len())));
    let made = func.order.iter().enumerate().flat_map(|(at, &op)| {
        let results = func.ops.get(op).map(|d| d.results.as_slice()).unwrap_or_default();
        results.iter().map(move |&v| (v, at))
    });
    let params = func.params.iter().map(|&p| (p, 0));
    params
        .chain(made)
        .map(|(value, from)| Interval { value, from, to: *last.get(&value).unwrap_or(&from) })
        .collect()
}
