"""Graphs of calls that are written first and submitted later: ``f.bind(...)``.

A node is a call that has not been made. `DAGNode.execute` makes the calls of all nodes that a
node needs, each once, and passes their refs on, so that a node starts when its inputs are ready.

Names and rules are those of Ray's DAG API, without compiled graphs
(https://docs.ray.io/en/latest/ray-core/ray-dag.html).
"""

from nbray.dag.class_node import ClassMethodNode, ClassNode
from nbray.dag.dag_node import DAGNode
from nbray.dag.function_node import FunctionNode
from nbray.dag.input_node import InputAttributeNode, InputNode
from nbray.dag.output_node import MultiOutputNode

__all__ = [
    "ClassMethodNode", "ClassNode", "DAGNode", "FunctionNode", "InputAttributeNode", "InputNode",
    "MultiOutputNode",
]  # fmt: skip
