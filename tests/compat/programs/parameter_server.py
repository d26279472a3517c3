"""A parameter server for linear regression, its workers in step and then each at its own pace."""

import numpy as np

import nbray as ray

TRUE = np.array([2.0, -3.0, 0.5])


@ray.remote
class ParameterServer:
    def __init__(self, size, rate):
        self.weights = np.zeros(size)
        self.rate = rate

    def apply_gradients(self, *gradients):
        self.weights = self.weights - self.rate * np.mean(gradients, axis=0)
        return self.weights

    def get_weights(self):
        return self.weights


@ray.remote
class DataWorker:
    def __init__(self, seed):
        generator = np.random.default_rng(seed)
        self.inputs = generator.normal(size=(200, 3))
        self.targets = self.inputs @ TRUE

    def compute_gradients(self, weights):
        return self.inputs.T @ (self.inputs @ weights - self.targets) / len(self.inputs)


ray.init(num_cpus=4)
workers = [DataWorker.remote(seed) for seed in range(2)]

server = ParameterServer.remote(3, 0.5)
weights = server.get_weights.remote()
for _ in range(40):
    weights = server.apply_gradients.remote(
        *[worker.compute_gradients.remote(weights) for worker in workers]
    )
assert np.allclose(ray.get(weights), TRUE, atol=1e-3)
print("in step:", np.round(ray.get(weights), 2).tolist())

server = ParameterServer.remote(3, 0.3)
weights = server.get_weights.remote()
computing = {worker.compute_gradients.remote(weights): worker for worker in workers}
for _ in range(80):
    ready, _ = ray.wait(list(computing))
    worker = computing.pop(ready[0])
    weights = server.apply_gradients.remote(ready[0])
    computing[worker.compute_gradients.remote(weights)] = worker
assert np.allclose(ray.get(server.get_weights.remote()), TRUE, atol=1e-2)
print("each at its pace: the same")
ray.shutdown()
