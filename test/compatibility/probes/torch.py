# /// script
# dependencies = ["torch"]
# ///
import torch


def f(event):
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()
    with torch.inference_mode():
        answer = model(torch.ones(2, 16)).softmax(1)
    assert answer.shape == (2, 4) and torch.allclose(answer.sum(1), torch.ones(2))
    assert not torch.cuda.is_initialized()
    return 'inference of a small network'
