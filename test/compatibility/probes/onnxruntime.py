# /// script
# dependencies = ["onnxruntime", "onnx"]
# ///
import numpy
import onnxruntime
from onnx import TensorProto, helper


def f(event):
    shape = [1, 4]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ('x', 'y')]
    graph = helper.make_graph([helper.make_node('Relu', ['x'], ['y'])], 'graph', values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    assert session.run(None, {'x': numpy.array([[-1, 2, -3, 4]], numpy.float32)})[0].tolist() == [[0, 2, 0, 4]]
    return 'model made and run'
