# SPDX-License-Identifier: Apache-2.0
"""The words that Praetor's programs share.

Everything at this level is standard library only, because it also reaches
devices. The Kubernetes half is in `praetor_api.kube`, under the extra `kube`.
"""
