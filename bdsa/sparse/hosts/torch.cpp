// A program as an operator of PyTorch, for programs in Python and in C++: bdsa::network(images, program, budget, classes,
// per_image), of which the last, a bool, may be missing: whether no image may exceed the budget.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>

#include "network.h"

namespace {

at::Tensor network(const at::Tensor& images, const at::Tensor& program, const at::Tensor& budget, int64_t classes,
                   const std::optional<at::Tensor>& per_image) {
    TORCH_CHECK(images.dim() == 4 && images.scalar_type() == at::kFloat,
                "bdsa::network takes float32 images [B, C, H, W], not ", images.scalar_type(), " ", images.sizes());
    TORCH_CHECK(budget.numel() == 1, "bdsa::network takes one budget, not ", budget.numel());
    TORCH_CHECK(!per_image || per_image->numel() == 1, "bdsa::network takes one per_image, not ", per_image->numel());
    TORCH_CHECK(program.is_contiguous() && program.scalar_type() == at::kByte, "bdsa::network takes a program of bytes");
    char message[MESSAGE];
    int64_t own = 0;
    TORCH_CHECK(!bdsa_classes(program.const_data_ptr(), program.numel(), &own, message, MESSAGE), message);
    TORCH_CHECK(classes == own, "bdsa::network: classes=", classes, ", and the program has ", own);
    at::Tensor logits = at::empty({images.size(0), classes}, images.options().memory_format(at::MemoryFormat::Contiguous));
    const int failed = bdsa_network(program.const_data_ptr(), program.numel(), images.const_data_ptr<float>(),
                                    images.sizes().data(), images.strides().data(), budget.item().toDouble(),
                                    per_image && per_image->item().toBool(), logits.mutable_data_ptr<float>(),
                                    at::get_num_threads(), message, MESSAGE);
    TORCH_CHECK(!failed, message);
    return logits;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(bdsa, library) {
    library.def("network(Tensor images, Tensor program, Tensor budget, int classes, Tensor? per_image=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(bdsa, CPU, library) { library.impl("network", network); }
