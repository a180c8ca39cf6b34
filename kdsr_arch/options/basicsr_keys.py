"""The option keys that BasicSR 1.4.2 reads: written by scripts/basicsr_keys.py, not to be edited by hand."""

DATASETS = {
    "FFHQDataset": "dataroot_gt io_backend mean std use_hflip",
    "RealESRGANPairedDataset": (
        "dataroot_gt dataroot_lq filename_tmpl gt_size io_backend mean meta_info scale std use_hflip use_rot"
    ),
    "REDSDataset": (
        "dataroot_flow dataroot_gt dataroot_lq gt_size interval_list io_backend meta_info_file num_frame "
        "random_reverse scale use_hflip use_rot val_partition"
    ),
    "REDSRecurrentDataset": (
        "dataroot_gt dataroot_lq gt_size interval_list io_backend meta_info_file num_frame random_reverse scale "
        "test_mode use_hflip use_rot val_partition"
    ),
    "VideoTestDataset": "cache_data dataroot_gt dataroot_lq io_backend meta_info_file name num_frame padding",
    "VideoTestVimeo90KDataset": "cache_data dataroot_gt dataroot_lq io_backend meta_info_file name num_frame",
    "VideoTestDUFDataset": (
        "cache_data dataroot_gt dataroot_lq io_backend meta_info_file name num_frame padding scale use_duf_downsampling"
    ),
    "VideoRecurrentTestDataset": (
        "cache_data dataroot_gt dataroot_lq io_backend meta_info_file name num_frame padding"
    ),
    "PairedImageDataset": (
        "color dataroot_gt dataroot_lq filename_tmpl gt_size io_backend mean meta_info_file scale std use_hflip use_rot"
    ),
    "SingleImageDataset": "color dataroot_lq io_backend mean meta_info_file std",
    "RealESRGANDataset": (
        "betag_range betag_range2 betap_range betap_range2 blur_kernel_size blur_kernel_size2 blur_sigma "
        "blur_sigma2 dataroot_gt final_sinc_prob io_backend kernel_list kernel_list2 kernel_prob kernel_prob2 "
        "meta_info sinc_prob sinc_prob2 use_hflip use_rot"
    ),
    "Vimeo90KDataset": (
        "dataroot_gt dataroot_lq gt_size io_backend meta_info_file num_frame random_reverse scale use_hflip use_rot"
    ),
    "Vimeo90KRecurrentDataset": (
        "dataroot_gt dataroot_lq flip_sequence gt_size io_backend meta_info_file num_frame random_reverse scale "
        "use_hflip use_rot"
    ),
}
"""Keys of `datasets.*`, by the data set's type."""

MODELS = {
    "SRModel": "train.perceptual_opt",
    "SRGANModel": (
        "network_d train.gan_opt train.ldl_opt train.net_d_init_iters train.net_d_iters train.optim_d "
        "train.perceptual_opt"
    ),
    "ESRGANModel": (
        "network_d train.gan_opt train.ldl_opt train.net_d_init_iters train.net_d_iters train.optim_d "
        "train.perceptual_opt"
    ),
    "HiFaceGANModel": (
        "network_d train.feature_matching_opt train.gan_opt train.net_d_init_iters train.net_d_iters train.optim_d "
        "train.perceptual_opt"
    ),
    "VideoBaseModel": "train.perceptual_opt",
    "EDVRModel": "train.dcn_lr_mul train.perceptual_opt train.tsa_iter",
    "VideoGANModel": (
        "network_d train.gan_opt train.ldl_opt train.net_d_init_iters train.net_d_iters train.optim_d "
        "train.perceptual_opt"
    ),
    "RealESRGANModel": (
        "gan_gt_usm gaussian_noise_prob gaussian_noise_prob2 gray_noise_prob gray_noise_prob2 gt_size "
        "high_order_degradation jpeg_range jpeg_range2 l1_gt_usm network_d noise_range noise_range2 percep_gt_usm "
        "poisson_scale_range poisson_scale_range2 queue_size resize_prob resize_prob2 resize_range resize_range2 "
        "scale second_blur_prob train.gan_opt train.ldl_opt train.net_d_init_iters train.net_d_iters train.optim_d "
        "train.perceptual_opt"
    ),
    "VideoRecurrentModel": "train.fix_flow train.flow_lr_mul train.perceptual_opt",
    "VideoRecurrentGANModel": (
        "network_d train.fix_flow train.flow_lr_mul train.gan_opt train.lr_flow train.net_d_init_iters "
        "train.net_d_iters train.optim_d train.perceptual_opt"
    ),
    "SwinIRModel": "scale train.perceptual_opt",
    "StyleGAN2Model": (
        "network_d train.gan_opt train.mixing_prob train.net_d_reg_every train.net_g_reg_every train.optim_d "
        "train.path_batch_shrink train.path_reg_weight train.r1_reg_weight val.num_val_samples"
    ),
    "RealESRNetModel": (
        "gaussian_noise_prob gaussian_noise_prob2 gray_noise_prob gray_noise_prob2 gt_size gt_usm "
        "high_order_degradation jpeg_range jpeg_range2 noise_range noise_range2 poisson_scale_range "
        "poisson_scale_range2 queue_size resize_prob resize_prob2 resize_range resize_range2 scale second_blur_prob "
        "train.perceptual_opt"
    ),
}
"""Keys beside those that every model may have, by the model's type."""
